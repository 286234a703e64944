"""What every bus can do: streams of entries, read by groups, each entry until it is acknowledged.

The semantics are those of Redis Streams, and the same for all clients:

- A stream is an append-only sequence of entries; an entry is an id and a payload. Ids
  (`"1718000000000-0"`) grow within a stream; `position` makes them comparable.
- A *group* gives each entry to one of its consumers. What was given and not acknowledged is
  *pending*; after a time it can be claimed by another consumer. So every entry is handled at least
  once by each group; handling it once in effect is for the receiver, by the message's own id.
- `publish` may store an entry twice (an answer that got lost makes the client, or its caller, send
  again), and never loses one that it has returned an id for, unless the server loses it. What a
  client finds out about losses it counts, names and reports as `Loss`.
- Trimming takes away the oldest entries, pending ones too; their loss is found when somebody
  claims them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from kasmina.bus.errors import BadName, PayloadTooLarge

LARGEST_PAYLOAD = 1 << 20  # bytes of one entry; more goes by claim-check
LONGEST_NAME = 256  # characters of the name of a stream, group, consumer or key
FIRST = "0"  # before every entry: the id to read from, or to begin a group at
NEWEST = "$"  # after the last entry there is now


class Delivery(NamedTuple):
    """One entry, as a consumer gets it."""

    stream: str
    id: str
    payload: bytes
    attempt: int = 1  # how often the group has given it to a consumer, this time included


class Pending(NamedTuple):
    """An entry that was given to a consumer and not acknowledged."""

    id: str
    consumer: str
    idle_s: float  # since it was last given
    attempt: int


class GroupInfo(NamedTuple):
    """Where a group stands."""

    delivered: str  # id of the last entry that was given to a consumer
    pending: int
    lag: int | None  # entries not yet given; None where the server cannot say (Redis before 7.0)
    consumers: int


class StreamInfo(NamedTuple):
    """Where a stream stands; one that does not exist has length 0 and no groups."""

    length: int
    first: str | None  # ids of the oldest and newest entries that it holds
    last: str  # the newest id that it ever held, "0-0" for none
    groups: Mapping[str, GroupInfo]


LossKind = Literal["wiped", "rolled back", "group gone", "trimmed"]


class Loss(NamedTuple):
    """Entries or groups that the bus has lost, as far as the client can tell.

    `wiped`: the server came back empty or was emptied. `rolled back`: it came back without the
    newest entries. `group gone`: the group must begin anew, at the stream's first entry. `trimmed`:
    entries were taken away while they were pending.
    """

    kind: LossKind
    stream: str | None  # None: all streams of the server
    group: str | None
    entries: int | None  # how many; None where nobody can say
    detail: str


class MessageBusClient(Protocol):
    """A connection to a bus. Safe for many tasks of one event loop; see `InProcessBus` for threads.

    Every call may raise `BusUnavailable`, `BusRefused`, `BusClosed` and, for writes, `BusFull` and
    `BusReadOnly`; names that are not legal raise `BadName`. A call that is cancelled may have been
    applied.
    """

    @property
    def counters(self) -> Mapping[str, int]:
        """How often what has happened since the client was made, by name."""
        ...

    def on_loss(self, callback: Callable[[Loss], None]) -> None:
        """Call back, in the client's loop, for every loss that this client finds."""
        ...

    async def publish(self, stream: str, payload: bytes, *, keep: int | None = None) -> str:
        """Append one entry and return its id; see `publish_many`."""
        ...

    async def publish_many(
        self, stream: str, payloads: Sequence[bytes], *, keep: int | None = None
    ) -> list[str]:
        """Append entries in their order and return their ids.

        Args:
            stream: made if it does not exist.
            payloads: each at most `LARGEST_PAYLOAD` bytes.
            keep: let the oldest go when the stream holds (clearly) more; never fewer are kept.

        Raises:
            PayloadTooLarge: nothing was sent.
            BusFull: the server has no room; of several entries the first may have been stored.
        """
        ...

    async def create_group(self, stream: str, group: str, *, start: str = FIRST) -> bool:
        """Make a group, and its stream, where they do not exist; say whether the group is new.

        Args:
            stream: its stream.
            group: its name.
            start: the id behind which it begins, `FIRST` or `NEWEST`.
        """
        ...

    async def consume(
        self,
        streams: Sequence[str],
        group: str,
        consumer: str,
        *,
        count: int = 512,
        wait_s: float = 0.0,
    ) -> list[Delivery]:
        """Give this consumer entries that the group has given to nobody yet, in their order.

        A group that was made by this client and has vanished is made again, from `FIRST`, and the
        loss reported.

        Args:
            streams: one or more.
            group: made before on each of the streams.
            consumer: a name that no other process uses at the same time.
            count: at most so many of each stream.
            wait_s: wait so long for a first entry; 0 does not wait.

        Raises:
            NoSuchGroup: nobody has made the group.
        """
        ...

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> int:
        """Say that entries are done; returns how many of them were pending until now."""
        ...

    async def claim(
        self, stream: str, group: str, consumer: str, *, idle_s: float, count: int = 512
    ) -> list[Delivery]:
        """Take over the oldest entries that have been pending for at least `idle_s`.

        Of several consumers that claim at once one gets each entry. Entries that were trimmed while
        they were pending are acknowledged and reported as a loss.

        Raises:
            NoSuchGroup: nobody has made the group.
        """
        ...

    async def pending(self, stream: str, group: str, *, count: int = 512) -> list[Pending]:
        """Return the oldest pending entries; none where there is no such group."""
        ...

    async def read(
        self, stream: str, *, after: str = FIRST, count: int = 512, wait_s: float = 0.0
    ) -> list[Delivery]:
        """Return entries behind an id, for nobody in particular: they are not pending then.

        Args:
            stream: one that need not exist.
            after: an id, `FIRST`, or `NEWEST`: what comes from now on (it only waits).
            count: at most so many.
            wait_s: wait so long for a first entry; 0 does not wait.
        """
        ...

    async def read_many(self, after: Mapping[str, str], *, count: int = 512) -> list[Delivery]:
        """Return what several streams hold behind an id each, as `read` does; it does not wait.

        Args:
            after: ids, or `FIRST`, by stream; none need exist.
            count: at most so many of each stream.
        """
        ...

    async def read_back(
        self, stream: str, *, before: str | None = None, count: int = 512
    ) -> list[Delivery]:
        """Return the last entries, in the order of their ids.

        Args:
            stream: one that need not exist.
            before: only those before this id; the newest if not given.
            count: at most so many.
        """
        ...

    async def remove(self, stream: str, ids: Sequence[str]) -> int:
        """Take single entries away; returns how many there were."""
        ...

    async def trim(self, stream: str, *, before: str) -> int:
        """Take away all entries older than the id `before`; returns how many there were."""
        ...

    async def info(self, stream: str) -> StreamInfo:
        """Return where a stream and its groups stand."""
        ...

    async def time(self) -> float:
        """Seconds since 1970 by the bus's clock, which its ids go by."""
        ...

    async def put_many(self, values: Mapping[str, bytes], *, expires_s: float) -> None:
        """Keep values beside the streams, by key, for a time; each at most `LARGEST_PAYLOAD`."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return values by their keys; None for one that is not there, or not any more."""
        ...

    async def drain(self) -> None:
        """Wait until everything that was handed over before has been answered."""
        ...

    async def close(self, *, within_s: float | None = None) -> None:
        """Drain for a bounded time, then let go of all connections; closing twice is fine.

        Args:
            within_s: how long it may drain; None: as long as any call may take.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def position(entry_id: str) -> tuple[int, int]:
    """Return an id as two integers, so that ids of one stream can be compared.

    Raises:
        ValueError: it is not of the form `milliseconds-number`, or `FIRST`.
    """
    milliseconds, _, number = entry_id.partition("-")
    if not (milliseconds.isascii() and milliseconds.isdigit() and (number or "0").isdigit()):
        raise ValueError(f"{entry_id!r} is no id of an entry; one reads like '1718000000000-0'")
    return int(milliseconds), int(number or 0)


def just_before(entry_id: str) -> str:
    """Return an id before the entry and behind all earlier ones."""
    milliseconds, number = position(entry_id)
    if number:
        return f"{milliseconds}-{number - 1}"
    return f"{max(0, milliseconds - 1)}-{(1 << 64) - 1 if milliseconds else 0}"


def check_names(**names: str) -> None:
    """Raise `BadName` for the first name that no bus takes; the keywords say what each names."""
    for what, name in names.items():
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise BadName(
                f"{name[:64]!r} cannot name a {what}; take 1 to {LONGEST_NAME} printable characters"
            )


def check_payloads(payloads: Sequence[bytes]) -> None:
    """Raise `PayloadTooLarge` for the first payload that is larger than an entry may be."""
    for payload in payloads:
        if len(payload) > LARGEST_PAYLOAD:
            raise PayloadTooLarge(
                f"a payload has {len(payload)} bytes; an entry holds at most {LARGEST_PAYLOAD}. "
                "Send it by claim-check (`bus.claim_check`), or in parts"
            )

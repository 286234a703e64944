"""`kasmina bus`: look at what is on a bus, and at the server."""

from __future__ import annotations

import json as json_module
import math
import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from kasmina.bus.client import FIRST, Delivery, MessageBusClient, position
from kasmina.bus.dead_letters import DeadLetterQueue
from kasmina.bus.errors import BusError, BusRejected
from kasmina.bus.following import behind
from kasmina.bus.names import DEAD_LETTERS, HEARTBEATS, streams_of
from kasmina.bus.operator import Operator
from kasmina.bus.outages import Outages
from kasmina.bus.retry import Backoff
from kasmina.cli.reaching import HERE, Reach, through, waits
from kasmina.cli.saying import line, say, warn
from kasmina.errors import UsageError
from kasmina_generated.messages import wire

app = cyclopts.App(name="bus", help="Look at a message bus.")
dlq = cyclopts.App(name="dlq", help="Messages that could not be handled, and why.")
app.command(dlq)
app.command("kasmina.cli.monitoring:monitor", name="monitor", help="Tell how runs and streams do.")

Flag = Annotated[bool, Parameter(negative=())]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
PAGE = 512  # entries that are read at a time
Stream = Annotated[str, Parameter(name="--stream")]


@app.command
def tail(
    what: Literal["events", "commands", "replies", "health", "observed", "heartbeats"] = "events",
    /,
    *,
    run: str | None = None,
    stream: str | None = None,
    after: str = FIRST,
    count: Count = 20,
    follow: Flag = False,
    reach: Reach = HERE,
) -> int:
    """Print messages as lines of JSON, the last ones that there are; bytes by their number.

    Args:
        what: which of a run's streams, or the signs of life of all runs.
        run: name of the run; not needed where one alone is alive.
        stream: another stream, by its whole name.
        after: id of an entry: only those behind it.
        count: how many of the last.
        follow: go on with what comes, until Ctrl-C.
        reach: where the bus is.
    """
    _check_id(after)

    async def work(client: MessageBusClient) -> int:
        name = stream or await _stream(client, what, run)
        found = await _last(client, name, after, count)
        if not found:
            warn(f"{name!r} has no entries" + f" behind {after}" * (after != FIRST))
        last = found[-1].id if found else after
        outages = Outages(Backoff(ceiling_s=1.0), tell=waits)
        while True:
            for each in found:
                say(_line(each.id, each.payload))
            if not follow:
                return 0
            read = partial(behind, client, name, last, wait_s=1.0)
            found, last = await outages.through(read)

    return through(reach.bus, work)


@app.command
def lag(*, run: str | None = None, reach: Reach = HERE) -> int:
    """Say which runs are alive, how much is in their streams, and how far their readers are.

    Args:
        run: one run; all if not given.
        reach: where the bus is.

    Returns:
        0, or 1 where the signs of life of runs cannot be read.
    """

    async def work(client: MessageBusClient) -> int:
        try:
            runs = await Operator(client).runs()
        except (
            BusRejected
        ) as error:  # what is there of one run and of the dead is told all the same
            warn(f"which runs are alive is not known: {error}")
            if run is not None:
                await _tell_streams(client, run)
            await _tell_stream(client, "dead letters", DEAD_LETTERS)
            return 1
        if run is not None and run not in runs:
            await Operator(client).find(run)
        for name, (beat, age_s) in runs.items():
            if run not in (None, name):
                continue
            held = ", held" * beat.paused
            say(f"{name}: heard {age_s:.1f} s ago, epoch {beat.epoch}, step {beat.step}{held}, "
                f"{beat.waiting} commands wait")  # fmt: skip
            await _tell_streams(client, name)
        await _tell_stream(client, "dead letters", DEAD_LETTERS)
        return 0

    return through(reach.bus, work)


@app.command
def doctor(*, json: Flag = False, reach: Reach = HERE) -> int:
    """Say what the server is, what it lacks, and what it keeps when it is killed.

    Args:
        json: print one JSON object.
        reach: where the bus is.

    Returns:
        0, or 1 where the server lacks something.
    """

    async def work(client: MessageBusClient) -> int:
        from kasmina.bus.redis_client import RedisStreamClient

        assert isinstance(client, RedisStreamClient)  # a URL gives no other
        found = await client.features()
        if json:
            say(json_module.dumps(found._asdict()))
            return int(bool(found.lacks))
        say(f"{client.server}: Redis {found.version or '(it does not say which)'}")
        known = {True: "yes", False: "no", None: "it does not say"}
        say(f"  append-only file: {known[found.append_only]}; snapshots: {known[found.snapshots]}; "
            f"forgets keys when full: {known[found.evicts]}; counts lag: {known[found.lag]}")  # fmt: skip
        for each in found.lacks:
            say(f"  lacks: {each}")
        return int(bool(found.lacks))

    return through(reach.bus, work)


@dlq.command(name="list")
def list_(*, stream: Stream = DEAD_LETTERS, count: Count = 100, reach: Reach = HERE) -> int:
    """List dead letters, the oldest first: id, where it came from, attempts, cause.

    Args:
        stream: the queue.
        count: at most so many.
        reach: where the bus is.
    """

    async def work(client: MessageBusClient) -> int:
        entries = await DeadLetterQueue(client, stream).list(count=count)
        if not entries:
            warn("no dead letters")
        for entry in entries:
            letter = entry.letter
            if letter is None:
                size = f"{entry.size} bytes" if entry.size else "too large"
                say(f"{entry.id}: cannot be read as a dead letter ({size}); purge it by its id")
            else:
                say(line(f"{entry.id}: {letter.entry} of {letter.stream} for {letter.reader}, "
                         f"{letter.attempts} attempts: {letter.cause}"))  # fmt: skip
        return 0

    return through(reach.bus, work)


@dlq.command
def replay(
    *ids: str,
    all: Flag = False,
    stream: Stream = DEAD_LETTERS,
    reach: Reach = HERE,
) -> int:
    """Send dead letters again, to the streams that they came from.

    Args:
        ids: which ones.
        all: all that can be read.
        stream: the queue.
        reach: where the bus is.
    """
    _check_which(ids, all)

    async def work(client: MessageBusClient) -> int:
        queue = DeadLetterQueue(client, stream)
        if all:
            say(f"{await queue.replay_all()} sent again")
        for each in ids:
            say(f"{each} sent again as {await queue.replay(each)}")
        return 0

    return through(reach.bus, work)


@dlq.command
def purge(
    *ids: str,
    all: Flag = False,
    stream: Stream = DEAD_LETTERS,
    reach: Reach = HERE,
) -> int:
    """Throw dead letters away.

    Args:
        ids: which ones.
        all: all of them.
        stream: the queue.
        reach: where the bus is.
    """
    _check_which(ids, all)

    async def work(client: MessageBusClient) -> int:
        gone = await DeadLetterQueue(client, stream).purge(None if all else list(ids))
        say(f"{gone} thrown away")
        return int(not all and gone < len(ids))

    return through(reach.bus, work)


@app.command
def key(file: Path, /) -> int:
    """Make a key file for signed commands: `kasmina grow --bus-key FILE`, `kasmina ctl --key FILE`.

    Args:
        file: a new file.
    """
    from kasmina.bus.signing import make_key_file

    say(f"{file}: key {make_key_file(file).name}")
    return 0


def _check_which(ids: tuple[str, ...], everything: bool) -> None:
    if bool(ids) == everything:
        raise UsageError("give the ids of letters, or --all")


def _check_id(after: str) -> None:
    if not re.fullmatch(r"\d{1,20}(-\d{1,20})?", after):
        raise UsageError(f"--after is {after!r}; it must be the id of an entry, as 1700000000000-0")


async def _stream(client: MessageBusClient, what: str, run: str | None) -> str:
    if what == "heartbeats":
        return HEARTBEATS
    found: str = getattr(streams_of(await Operator(client).find(run, silent=True)), what)
    return found


async def _last(client: MessageBusClient, stream: str, after: str, count: int) -> list[Delivery]:
    """The last entries, of those behind an id."""
    found: list[Delivery] = []
    before, end = None, position(after)
    while len(found) < count:
        page = await client.read_back(stream, before=before, count=min(PAGE, count - len(found)))
        found = [each for each in page if position(each.id) > end] + found
        if not page or position(page[0].id) <= end:
            break
        before = page[0].id
    return found


def _line(id: str, payload: bytes) -> str:
    try:
        plain = [
            msgspec.to_builtins(each, builtin_types=(bytes,)) for each in wire.decode_many(payload)
        ]
    except wire.MessageRefused as error:
        return json_module.dumps({"entry": id, "unreadable": str(error)})
    return "\n".join(json_module.dumps({"entry": id, **_shown(_opened(each))}) for each in plain)


def _shown(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    return [_shown(each) for each in value] if isinstance(value, list | tuple) else value


def _opened(message: dict[str, Any]) -> dict[str, Any]:
    """The message with the line of a log, which is JSON itself, as such."""
    body = message["body"]
    if body["kind"] == "logged":
        with suppress(ValueError, RecursionError):
            body["line"] = json_module.loads(body["line"])
    return message


async def _tell_streams(client: MessageBusClient, run: str) -> None:
    for what, stream in streams_of(run)._asdict().items():
        await _tell_stream(client, what, stream, "  ")


async def _tell_stream(client: MessageBusClient, what: str, stream: str, indent: str = "") -> None:
    try:
        info = await client.info(stream)
    except BusError as error:
        if error.transient:
            raise
        say(f"{indent}{what}: {error}")  # somebody else's key of that name
        return
    say(f"{indent}{what}: {info.length} entries, last {info.last}")
    for name, group in info.groups.items():
        left = "unknown" if group.lag is None else str(group.lag)
        say(f"{indent}  group {line(name)}: lag {left}, {group.pending} pending, "
            f"{group.consumers} consumers")  # fmt: skip

"""The commands of a run: which are legal, which wait, and what became of which.

A command counts as done when it was applied or refused. `position` is the entry before which all
are done: with the outcomes it goes into each checkpoint, and a resumed run reads on from there.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from kasmina.bus.again import Again, Moment
from kasmina.bus.answers import Answers
from kasmina.bus.client import FIRST, just_before, position
from kasmina.bus.deduplication import MessageDeduplicator, MessageKey
from kasmina.bus.requests import (
    PRIORITIES,
    Asked,
    Check,
    CommandConfig,
    Outcome,
    Request,
    digest_of,
)
from kasmina.bus.signing import SignatureRefused, Verifier
from kasmina.bus.waiting import FairQueue
from kasmina_generated.messages.types import (
    Accepted,
    Applied,
    Checkpoint,
    Command,
    Envelope,
    Query,
    Refused,
)


class _Waiting(NamedTuple):
    """A command that was accepted and is not done."""

    digest: bytes | None
    made: float


class Docket:
    """What was asked of a run; the event loop adds to it and the training thread takes from it.

    Args:
        run: name of the run.
        answers: takes acknowledgements.
        check: says why a command is not legal, by what is known now.
        verify: knows copies of signed commands.
        config: see `CommandConfig`.
        observe: hears of latencies, by name: "accepted" and "applied", in seconds since the
            command was made.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        run: str,
        answers: Answers,
        *,
        check: Check,
        verify: Verifier | None,
        config: CommandConfig,
        observe: Callable[[str, float], None],
        clock: Callable[[], float],
    ) -> None:
        self.check, self.held = check, False
        self.accepted = self.applied = self.duplicates = self.unreadable = 0
        self.refusals = Counter[str]()  # by reason
        self.rewound = self.waiting = 0  # the latter: commands that were accepted and not taken
        self._run, self._answers, self._verify = run, answers, verify
        self._config, self._observe, self._clock = config, observe, clock
        self._lock = Lock()
        self._done = MessageDeduplicator[Outcome](config.window)
        self._queue: FairQueue[Request] = FairQueue(config.stride)
        # entries that are not done, in order, and whether they are in the stream
        self._open: OrderedDict[str, bool] = OrderedDict()
        self._keys: dict[MessageKey, _Waiting] = {}  # accepted and not done
        self._again = Again()
        self._earlier = (0, 0)  # up to where entries had come before the run went on
        self._position = self._read = FIRST
        self._seen = ""  # the newest entry that was read, where the stream is known to have had one
        self._life = 0

    # ------------------------------------------------------------------ the training thread

    def take(self, count: int = 1 << 30, *, moment: Moment | None = None) -> list[Request]:
        """Take the next commands; never waits. None while the handler is held.

        `held = True` while a checkpoint restores: what comes then is accepted and applied after it,
        and refused as `restoring` where no more may wait.

        Args:
            count: of new ones, at most.
            moment: milestones and steps of the run; what is done again is taken at the moments of
                the first time. None takes all of it.
        """
        with self._lock:
            if self.held:
                return []
            new = [self._queue.pop() for _ in range(min(count, len(self._queue)))]
            found = [*self._again.take(moment), *new]
            self._count()
            return found

    def settle(self, request: Request, outcome: Outcome) -> None:
        """Say what became of a command; its second acknowledgement is on its way then."""
        with self._lock:
            if request.life == self._life:  # else it is read, and taken, again
                known = request.told is not None and isinstance(outcome, Applied)
                self._settle(request.asked, outcome, known=known)
        self._answers.wake()

    def state_dict(self) -> dict[str, Any]:
        """The position and the outcomes, for a checkpoint; plain values."""
        with self._lock:
            done = [
                (producer, id_, msgspec.msgpack.encode(outcome))
                for producer, id_, outcome in self._done.state_dict()
            ]
            return {"position": self._position, "seen": self._seen, "done": done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was taken; what waits now is read, and answered, again."""
        decode = msgspec.msgpack.Decoder(Outcome).decode
        done = [(producer, id_, decode(outcome)) for producer, id_, outcome in state["done"]]
        with self._lock:
            self._life += 1
            self._done.load_state_dict(done)
            self._queue = FairQueue(self._config.stride)
            self._again.clear()
            self._open.clear()
            self._keys.clear()
            self._position = self._read = str(state["position"])
            self._seen = str(state["seen"])
            self._count()

    @property
    def refused(self) -> int:
        """Commands that were not taken, or not carried out."""
        return self.refusals.total()

    @property
    def position(self) -> str:
        """Id of the last entry before which, itself included, all commands are done."""
        return self._position

    @property
    def caught_up(self) -> bool:
        """Whether all was read, or as much as may wait, that had come before the run went on."""
        return position(self._read) >= self._earlier or self.waiting >= self._config.earlier

    # ------------------------------------------------------------------ what comes; the lock is held

    def _consider(self, entry: str, envelope: Envelope) -> None:
        """Accept or refuse a message."""
        command, key = envelope.body, MessageKey(envelope.producer, envelope.id)
        if not isinstance(command, Command):
            self._turn_away(Asked(key, entry, trace=envelope.trace), "malformed",
                            f"{type(command).__name__} is no command")  # fmt: skip
            return
        asked = Asked(key, entry, digest_of(command), envelope.trace)
        known, waiting = self._done.get(key), self._keys.get(key)
        if self._is_another(asked, known or waiting):
            self._turn_away(asked, "reused", f"id {envelope.id!r} names another command, which "
                            "came before: send this one by an id of its own")  # fmt: skip
        elif known is not None:
            self.duplicates += 1
            self._answers.say(asked, known)
            self._close(entry)
        elif waiting is not None:
            self.duplicates += 1
            self._answers.say(asked, Accepted(run=self._run, waiting=len(self._queue)))
            self._close(entry)  # the copy before it keeps the position
        elif self._verify and self._verify.is_replayed(envelope, entry):
            detail = "it came before, and so long ago that what became of it is forgotten"
            self._settle(asked, self._refused("replayed", detail))
        elif (told := self._again.told(asked)) is not None:
            self._do_again(asked, command, envelope.time, told)
        elif (refused := self._refusal(command, entry)) is not None:
            self._settle(asked, refused)
        else:
            self._accept(asked, command, envelope.time)

    def _is_another(self, asked: Asked, known: Outcome | _Waiting | None) -> bool:
        """Whether the id of a command is another one's; what was kept without a digest is the same."""
        return known is not None and known.digest not in (None, asked.digest)

    def _do_again(self, asked: Asked, command: Command, made: float, told: Outcome) -> None:
        if isinstance(told, Applied) and not isinstance(command, Query | Checkpoint):
            self._keys[asked.key] = _Waiting(asked.digest, made)
            request = Request(asked, command, self._clock(), self._life, told)
            self._again.put(request, (told.milestone, told.step))
            self._count()
        else:
            self._done.remember(asked.key, told)
            self._close(asked.entry)

    def _refusal(self, command: Command, entry: str) -> Refused | None:
        if command.expires is not None and command.expires < self._clock():
            return self._refused("expired", "it came after its time")
        if self._is_earlier(entry) and len(self._again):
            return None  # what is legal then is not known yet
        if len(self._queue) >= self._config.capacity and not self._is_earlier(entry):
            why = "restoring" if self.held else "overloaded"
            return self._refused(why, f"{len(self._queue)} commands wait: send it later")
        try:
            return self.check(command)
        except Exception as error:  # noqa: BLE001  the sender must hear of it
            return self._refused("failed", f"it cannot be checked: {error!r}")

    def _accept(self, asked: Asked, command: Command, made: float) -> None:
        given = command.priority
        priority = PRIORITIES[type(command).__name__] if given is None else given
        now = self._clock()
        request = Request(asked, command, now, self._life)
        if self._is_earlier(asked.entry) and len(self._again):
            before = self._again.put(request, None)
        else:
            before = self._queue.put(request, priority)
        self._count()
        self._keys[asked.key] = _Waiting(asked.digest, made)
        self.accepted += 1
        self._observe("accepted", max(0.0, now - made))
        self._answers.say(asked, Accepted(run=self._run, waiting=before))

    def _refuse_unreadable(self, entry: str, error: Exception) -> None:
        reason, named = getattr(error, "reason", ""), getattr(error, "message_id", None)
        kind = "version" if reason in ("newer", "older") else "malformed"
        detail = str(error)
        if isinstance(error, SignatureRefused):
            kind, detail = error.reason, error.detail
        else:
            self.unreadable += 1
        self._turn_away(Asked(MessageKey("", (named or "")[:128]), entry), kind, detail)

    def _turn_away(self, asked: Asked, reason: str, detail: str) -> None:
        """Refuse what is not remembered: its id is not known, or another command's."""
        self.refusals[reason] += 1
        self._answers.say(asked, self._refused(reason, detail))
        self._close(asked.entry)

    # ------------------------------------------------------------------ what is done; the lock is held

    def _settle(self, asked: Asked, outcome: Outcome, *, known: bool = False) -> None:
        """Remember, and answer what is not known."""
        if asked.entry not in self._open:  # the state was loaded meanwhile: it is read again
            return
        waited = self._keys.pop(asked.key, None)
        self._done.remember(asked.key, structs.replace(outcome, digest=asked.digest))
        if isinstance(outcome, Refused):
            self.refusals[outcome.reason] += 1
        else:
            self.applied += 1
            self._observe("applied", max(0.0, self._clock() - waited.made) if waited else 0.0)
        if not known:
            self._answers.say(asked, outcome)
        self._close(asked.entry)

    def _close(self, entry: str) -> None:
        """An entry is done: the position moves up to the first one that is not."""
        self._open.pop(entry, None)
        first = next((each for each, there in self._open.items() if there), None)
        self._position = self._read if first is None else just_before(first)

    def _begin_anew(self) -> None:
        """The stream is another one: read it from its beginning; what is done is known by its id."""
        self._read, self._seen = FIRST, ""
        self.rewound += 1
        self._open = OrderedDict.fromkeys(self._open, False)
        self._close("")

    def _expire(self) -> None:
        """Refuse what has waited too long."""
        now = self._clock()
        if not self.held:
            for request in self._queue.remove(lambda each: self._is_late(each, now)):
                detail = f"nobody took it for {now - request.arrived:.3g} s"
                self._settle(request.asked, self._refused("expired", detail))
            self._count()

    def _is_late(self, request: Request, now: float) -> bool:
        expires = request.command.expires
        late = expires is not None and expires < now
        return late or now - request.arrived > self._config.timeout_s

    def _count(self) -> None:
        """The training thread looks at a number after each step, which costs least."""
        self.waiting = len(self._queue) + len(self._again)

    def _is_earlier(self, entry: str) -> bool:
        return position(entry) <= self._earlier

    def _refused(self, reason: Any, detail: str) -> Refused:
        return Refused(run=self._run, reason=reason, detail=detail[:8192])

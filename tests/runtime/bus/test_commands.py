"""Commands on virtual time: two answers each, once in effect, in a fair order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec import structs

from kasmina.bus.client import Delivery, position
from kasmina.bus.commands import CommandConfig, CommandHandler, Request
from kasmina.bus.deduplication import MessageKey
from kasmina.bus.errors import BusRejected, BusUnavailable
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.requests import Asked, digest_of
from kasmina.bus.retry import Backoff
from kasmina.bus.signing import Key, Signer, Verifier, unsealed
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import (
    Accepted,
    Applied,
    Body,
    Cancel,
    Checkpoint,
    Command,
    Envelope,
    Germinate,
    Heartbeat,
    Pause,
    Refused,
    Rollback,
    Status,
    Target,
)
from tests.runtime.bus.virtual import now, run

RUN = "digits-7"
KEY = Key("key", bytes(range(32)))


def clock() -> float:
    """Virtual seconds since 1970."""
    return 1e9 + now()


def legal(command: Command) -> Refused | None:
    """Refuses slot 99, fails at slot 98."""
    target = getattr(command, "target", None)
    if target is not None and target.slot == 99:
        return Refused(run=RUN, reason="illegal", detail="not now", state="TRAINING")
    if target is not None and target.slot == 98:
        raise RuntimeError("the check is broken")
    return None


def applied(step: int = 0, **fields: Any) -> Applied:
    """An outcome."""
    return Applied(run=RUN, epoch=0, step=step, **fields)


class Desk:
    """A handler on a bus, and somebody who sends."""

    def __init__(self, **settings: Any) -> None:
        self.bus = InProcessBus(clock=clock)
        self.sender = Stamp("operator", clock=clock)
        self.latencies: list[tuple[str, float]] = []
        self.handler = self.another(**settings)

    def another(
        self,
        *,
        verify: Verifier | None = None,
        give_up: Callable[[Delivery, Exception], object] = lambda delivery, error: None,
        **settings: Any,
    ) -> CommandHandler:
        """A further life of the handler."""
        return CommandHandler(
            self.bus,
            "commands",
            "replies",
            Stamp("run", clock=clock),
            run=RUN,
            check=legal,
            verify=verify,
            give_up=give_up,
            config=CommandConfig(**settings),
            observe=lambda name, seconds: self.latencies.append((name, seconds)),
            clock=clock,
            backoff=Backoff(base_s=0.1, ceiling_s=0.5),
            rng=Random(0),
        )

    async def send(self, body: Body, id_: str | None = None) -> str:
        """Publish a command; returns its id."""
        envelope = self.sender(body, id=id_)
        await self.bus.publish("commands", wire.encode(envelope))
        return envelope.id

    async def replies(self, to: str | None = None) -> list[Body]:
        """What was answered, to one command or to all; without which it was."""
        found = [each for each in await self.answers() if to is None or each.correlation == to]
        return [structs.replace(e.body, asker=None, entry=None, digest=None) for e in found]

    async def answers(self) -> list[Envelope]:
        """What was answered, in its envelopes."""
        found = [wire.decode(d.payload) for d in await self.bus.read("replies", count=100_000)]
        return [unsealed(each) for each in found]


def germinate(slot: int, **fields: Any) -> Germinate:
    """A command."""
    return Germinate(run=RUN, target=Target(site="a", slot=slot), **fields)


async def started(desk: Desk) -> asyncio.Task[None]:
    """Let the handler run."""
    task = asyncio.create_task(desk.handler.run())
    await asyncio.sleep(0.01)
    return task


def slot(request: Request) -> int:
    """Of a germination."""
    assert isinstance(request.command, Germinate)
    return request.command.target.slot or 0


def test_a_command_is_accepted_and_then_applied() -> None:
    """Two acknowledgements, by correlation; latencies from when it was made."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        id_ = await desk.send(germinate(3))
        await asyncio.sleep(1)
        assert await desk.replies(id_) == [Accepted(run=RUN, waiting=0)]
        (request,) = desk.handler.take()
        assert slot(request) == 3
        assert desk.handler.take() == []
        desk.handler.settle(request, applied(7, detail="done"))
        await asyncio.sleep(1)
        assert await desk.replies(id_) == [
            Accepted(run=RUN, waiting=0),
            applied(7, detail="done"),
        ]
        assert [name for name, _ in desk.latencies] == ["accepted", "applied"]
        assert [round(seconds, 3) for _, seconds in desk.latencies] == [0.0, 1.0]
        desk.handler.stop()
        await task
        assert (desk.handler.accepted, desk.handler.applied, desk.handler.refused) == (1, 1, 0)

    run(main())


def test_what_is_refused_is_answered_once_and_why() -> None:
    """Illegal, broken check, late, no command, no message, a newer version."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        illegal = await desk.send(germinate(99))
        broken = await desk.send(germinate(98))
        late = await desk.send(germinate(1, expires=1e9 - 5))
        beat = await desk.send(
            Heartbeat(run=RUN, epoch=0, step=0, every=1, paused=False, waiting=0)
        )
        newer = msgspec.msgpack.decode(wire.encode(desk.sender(Pause(run=RUN))))
        newer["version"] = 9
        await desk.bus.publish("commands", msgspec.msgpack.encode(newer))
        for hostile in (b"", b"\xdd\xff\xff\xff\xff", b"\x91" * 100_000, b"\xc1", bytes(1 << 20)):
            await desk.bus.publish("commands", hostile)
        good = await desk.send(germinate(1))
        await asyncio.sleep(1)

        async def only(id_: str) -> tuple[str, str]:
            (answer,) = await desk.replies(id_)
            assert isinstance(answer, Refused)
            return answer.reason, answer.detail

        assert await only(illegal) == ("illegal", "not now")
        assert await only(broken) == (
            "failed",
            "it cannot be checked: RuntimeError('the check is broken')",
        )
        assert await only(late) == ("expired", "it came after its time")
        assert await only(beat) == ("malformed", "Heartbeat is no command")
        reason, detail = await only(newer["id"])
        assert reason == "version"
        assert "update the reader" in detail
        assert await desk.replies(good) == [Accepted(run=RUN, waiting=0)]
        unreadable = [e for e in await desk.replies() if isinstance(e, Refused)]
        assert len(unreadable) == 5 + 5
        assert desk.handler.unreadable == 6
        assert desk.handler.refusals == {"illegal": 1, "failed": 1, "expired": 1, "version": 1} | {
            "malformed": 6
        }
        desk.handler.stop()
        await task

    run(main())


def test_a_copy_has_no_second_effect_and_the_same_answer() -> None:
    """While it waits, after it was applied, and after it was refused."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        for _ in range(3):
            await desk.send(germinate(1), "same")
            await desk.send(germinate(99), "bad")
        await asyncio.sleep(1)
        (request,) = desk.handler.take()
        desk.handler.settle(request, applied(5))
        await desk.send(germinate(1), "same")
        await asyncio.sleep(1)
        assert desk.handler.take() == []
        assert [type(e).__name__ for e in await desk.replies("same")] == [
            *["Accepted"] * 3,
            *["Applied"] * 2,
        ]
        assert [type(e).__name__ for e in await desk.replies("bad")] == ["Refused"] * 3
        assert desk.handler.duplicates == 5
        other = Stamp("somebody else", clock=clock)
        await desk.bus.publish("commands", wire.encode(other(germinate(1), id="same")))
        await asyncio.sleep(1)
        assert len(desk.handler.take()) == 1  # another producer's id is another message
        desk.handler.stop()
        await task

    run(main())


@pytest.mark.parametrize("dies", ["waiting", "answered", "saved"])
def test_another_command_of_an_id_is_refused(dies: str) -> None:
    """While the first waits, when it is done, and after a kill, whatever was known of it."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        state = desk.handler.state_dict()
        await desk.send(germinate(1), "same")
        await desk.send(germinate(2), "same")
        await asyncio.sleep(0.1)
        if dies != "waiting":
            (request,) = desk.handler.take()
            desk.handler.settle(request, applied(5))
            await desk.send(Pause(run=RUN), "same")
            await asyncio.sleep(0.1)
        if dies == "saved":
            state = msgspec.msgpack.decode(_packed(desk.handler.state_dict()))
        await killed(task)

        task = await resumed(desk, state)
        await desk.send(germinate(3), "same")
        await desk.send(germinate(1, reason="told otherwise", priority=0), "same")
        await asyncio.sleep(0.1)
        for request in desk.handler.take():
            assert slot(request) == 1
            desk.handler.settle(request, applied(5))
        await asyncio.sleep(0.1)
        first = digest_of(germinate(1))
        told = [each.body for each in await desk.answers()]
        assert any(isinstance(each, Applied) for each in told)
        for each in told:
            assert isinstance(each, Accepted | Applied | Refused)
            assert isinstance(each, Refused) == (each.digest != first)
        others = [each for each in told if isinstance(each, Refused)]
        assert {each.reason for each in others} == {"reused"}
        assert {each.digest for each in others} == {
            *map(digest_of, [germinate(2), germinate(3)]),
            *([] if dies == "waiting" else [digest_of(Pause(run=RUN))]),
        }
        assert others[0].detail == (
            "id 'same' names another command, which came before: send this one by an id of its own"
        )
        assert desk.handler.applied == (dies != "saved")
        assert desk.handler.refusals["reused"] == {"waiting": 2, "answered": 3, "saved": 1}[dies]
        desk.handler.stop()
        await task

    run(main())


def test_what_was_kept_without_a_digest_is_a_copy() -> None:
    """Checkpoints of before have none."""

    async def main() -> None:
        desk = Desk()
        outcome = msgspec.msgpack.encode(applied(5))
        done = [(desk.sender.producer, "same", outcome)]
        task = await resumed(desk, {"position": "0-0", "seen": "", "done": done})
        await desk.send(germinate(1), "same")
        await asyncio.sleep(0.1)
        assert await desk.replies() == [applied(5)]
        desk.handler.stop()
        await task

    run(main())


def test_the_window_is_what_it_says() -> None:
    """A copy that comes after so many others is done again."""

    async def main() -> None:
        desk = Desk(window=3)
        task = await started(desk)
        for number in (0, 1, 2, 0, 3, 0):
            await desk.send(germinate(number), f"id {number}")
            await asyncio.sleep(1)
            for request in desk.handler.take():
                desk.handler.settle(request, applied())
        assert (desk.handler.applied, desk.handler.duplicates) == (5, 1)
        desk.handler.stop()
        await task

    run(main())


def test_what_is_urgent_goes_first_and_nothing_starves() -> None:
    """By kind, by the priority given, and by arrival; a flood of rollbacks delays by its stride."""

    async def main() -> None:
        desk = Desk(stride=10)
        task = await started(desk)
        await desk.send(germinate(0))
        await desk.send(Cancel(run=RUN, target=Target()))
        await desk.send(germinate(1, priority=0))
        await desk.send(Rollback(run=RUN, target=Target()))
        await asyncio.sleep(1)
        order = [type(request.command).__name__ for request in desk.handler.take()]
        assert order == ["Germinate", "Rollback", "Cancel", "Germinate"]
        await desk.send(germinate(7))
        served = 0
        while True:
            await desk.send(Rollback(run=RUN, target=Target()))
            await asyncio.sleep(0.1)
            (request,) = desk.handler.take(1)
            if isinstance(request.command, Germinate):
                break
            served += 1
        assert served == 49
        desk.handler.stop()
        await task

    run(main())


def test_what_nobody_takes_expires() -> None:
    """By the handler's time-out or the command's own; it is answered and never applied."""

    async def main() -> None:
        desk = Desk(timeout_s=10.0)
        task = await started(desk)
        own = await desk.send(germinate(0, expires=1e9 + 5))
        general = await desk.send(germinate(1))
        await asyncio.sleep(6)
        assert [type(e).__name__ for e in await desk.replies(own)] == ["Accepted", "Refused"]
        assert len(await desk.replies(general)) == 1
        await asyncio.sleep(6)
        answer = (await desk.replies(general))[1]
        assert isinstance(answer, Refused)
        assert answer.reason == "expired"
        assert answer.detail.startswith("nobody took it for 10")
        assert desk.handler.take() == []
        desk.handler.stop()
        await task

    run(main())


def test_what_is_too_much_is_refused() -> None:
    """The queue is bounded; a flood is answered and costs no memory."""

    async def main() -> None:
        desk = Desk(capacity=5)
        task = await started(desk)
        for number in range(100):
            await desk.send(germinate(number % 90))
        await asyncio.sleep(1)
        assert desk.handler.waiting == 5
        refused = [each for each in await desk.replies() if isinstance(each, Refused)]
        assert len(refused) == 95
        assert {each.reason for each in refused} == {"overloaded"}
        desk.handler.stop()
        await task

    run(main())


def test_while_it_is_held_nothing_is_taken_and_nothing_expires() -> None:
    """What comes while a checkpoint restores is applied after it."""

    async def main() -> None:
        desk = Desk(timeout_s=10.0)
        task = await started(desk)
        desk.handler.held = True
        id_ = await desk.send(germinate(0))
        await asyncio.sleep(60)
        assert desk.handler.take() == []
        assert await desk.replies(id_) == [Accepted(run=RUN, waiting=0)]
        desk.handler.held = False
        assert len(desk.handler.take()) == 1
        desk.handler.stop()
        await task

    run(main())


def test_an_applied_command_survives_kill_and_resume() -> None:
    """At every moment of 40 commands: checkpoint, more work, kill, resume from the checkpoint.

    The state of the run is a list that the checkpoint holds together with the handler's.
    """
    for seed in range(40):
        run(_lives(seed))


async def _lives(seed: int) -> None:
    rng, desk = Random(seed), Desk()
    effects: list[int] = []
    saved: tuple[list[int], dict[str, Any]] = ([], desk.handler.state_dict())
    task = await started(desk)
    sent, promised = 0, set[int]()
    for _ in range(60):
        move = rng.choice(("send", "send", "work", "work", "save", "kill", "restore"))
        if move == "send" and sent < 40:
            await desk.send(germinate(sent), f"id {sent}")
            if rng.random() < 0.3:
                await desk.send(germinate(sent), f"id {sent}")
            sent += 1
        elif move == "work":
            for request in desk.handler.take(rng.randrange(4)):
                effects.append(slot(request))
                desk.handler.settle(request, applied())
        elif move == "save":
            saved = (list(effects), msgspec.msgpack.decode(_packed(desk.handler.state_dict())))
            promised |= set(effects)
            await desk.bus.trim("commands", before=saved[1]["position"])
        elif move == "kill":
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            desk.handler = desk.another()
            effects = list(saved[0])
            desk.handler.load_state_dict(saved[1])
            task = await started(desk)
        elif move == "restore":
            pending = desk.handler.take(rng.randrange(3))
            effects = list(saved[0])
            desk.handler.load_state_dict(saved[1])
            for request in pending:  # was under way when the checkpoint came back: never half
                desk.handler.settle(request, applied(999))
        await asyncio.sleep(rng.choice((0, 0.01, 0.6)))
        assert promised <= set(effects)
    await asyncio.sleep(2)
    for request in desk.handler.take():
        effects.append(slot(request))
        desk.handler.settle(request, applied())
    assert sorted(effects) == list(range(sent)), f"seed {seed}"
    desk.handler.stop()
    await task
    for number in range(sent):
        answers = await desk.replies(f"id {number}")
        assert any(isinstance(each, Applied) for each in answers)
        assert applied(999) not in answers
    info = await desk.bus.info("commands")
    assert position(desk.handler.position) == position(info.last)


def _packed(state: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode(state)


def test_the_position_waits_for_what_is_not_done() -> None:
    """It stands before the first command that is neither applied nor refused."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        ids = []
        for number in range(4):
            await desk.send(germinate(number))
            await asyncio.sleep(0.1)
            ids.append((await desk.bus.info("commands")).last)
        requests = desk.handler.take()
        for done in (2, 0, 1, 3):
            desk.handler.settle(requests[done], applied())
            behind = await desk.bus.read("commands", after=desk.handler.position)
            left = {2: 4, 0: 3, 1: 1, 3: 0}[done]
            assert len(behind) == left
        assert desk.handler.position == ids[-1]
        desk.handler.stop()
        await task

    run(main())


def test_a_stream_that_was_lost_is_read_from_its_beginning() -> None:
    """The server came back empty and with an older clock: new commands are read, copies known."""

    async def main() -> None:
        desk, back = Desk(), 0.0
        desk.bus = InProcessBus(clock=lambda: clock() - back)
        desk.handler = desk.another()
        task = await started(desk)
        await desk.send(germinate(0), "first")
        await desk.send(germinate(1), "second")
        await asyncio.sleep(1)
        first, second = desk.handler.take()
        desk.handler.settle(first, applied())
        await desk.bus.wipe()
        back = 1e6
        await asyncio.sleep(2)
        assert desk.handler.rewound == 1
        assert desk.handler.position == "0"
        for number, id_ in ((0, "first"), (1, "second"), (2, "third")):
            await desk.send(germinate(number), id_)
        await asyncio.sleep(1)
        (third,) = desk.handler.take()
        assert (slot(third), desk.handler.duplicates) == (2, 2)
        left = await desk.bus.read("commands", after=desk.handler.position)
        assert len(left) == 1  # of the new stream, though one of the old is not done
        desk.handler.settle(second, applied())
        desk.handler.settle(third, applied())
        assert desk.handler.position == (await desk.bus.info("commands")).last
        desk.handler.stop()
        await task
        assert (desk.handler.applied, desk.handler.rewound) == (3, 1)

    run(main())


def test_answers_wait_while_the_bus_is_away() -> None:
    """None is lost, and their order stays; another error ends the run."""

    async def main() -> None:
        desk, away = Desk(), True
        publish = desk.bus.publish_many

        async def unreliable(stream: str, *arguments: Any, **settings: Any) -> list[str]:
            if away and stream == "replies":
                raise BusUnavailable("away")
            return await publish(stream, *arguments, **settings)

        desk.bus.publish_many = unreliable  # type: ignore[method-assign]
        task = await started(desk)
        ids = [await desk.send(germinate(n)) for n in range(5)]
        await asyncio.sleep(20)
        assert desk.handler.outages.count > 10
        for request in desk.handler.take():
            desk.handler.settle(request, applied())
        await asyncio.sleep(20)
        assert await desk.replies() == []
        away = False
        await asyncio.sleep(5)
        for id_ in ids:
            assert [type(e).__name__ for e in await desk.replies(id_)] == ["Accepted", "Applied"]

        async def broken(*arguments: Any, **settings: Any) -> list[str]:
            raise BusRejected("no")

        desk.bus.publish_many = broken  # type: ignore[method-assign]
        desk.handler._answers.say(Asked(MessageKey("x", "x"), "1-0"), Accepted(run=RUN, waiting=0))
        desk.handler._answers.wake()
        with pytest.raises(BusRejected):
            await asyncio.wait_for(task, 10)

    run(main())


def test_an_answer_that_cannot_be_told_is_a_refusal() -> None:
    """A check may give a text that no message has room for."""

    async def main() -> None:
        desk = Desk()
        desk.handler.check = lambda command: Refused(run=RUN, reason="illegal", detail="")
        task = await started(desk)
        id_ = await desk.send(germinate(0))
        await asyncio.sleep(1)
        (answer,) = await desk.replies(id_)
        assert isinstance(answer, Refused)
        assert answer.reason == "failed"
        assert answer.detail.startswith("what became of it cannot be told: ")
        desk.handler.stop()
        await task

    run(main())


def test_fuzzed_commands_are_each_answered_and_stop_nobody() -> None:
    """2,000 mutations of commands: every one is accepted, refused or known; the next is read."""

    async def main() -> None:
        desk, rng = Desk(capacity=100_000), Random(0)
        task = await started(desk)
        good = [
            wire.encode(desk.sender(body))
            for body in (germinate(3, reason="because"), Pause(run=RUN), germinate(99))
        ]
        payloads = []
        for _ in range(2000):
            bad = bytearray(rng.choice(good))
            for _ in range(rng.randint(1, 3)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            payloads.append(bytes(bad[: rng.choice((len(bad), rng.randrange(len(bad))))]))
        await desk.bus.publish_many("commands", payloads)
        await asyncio.sleep(5)
        handler = desk.handler
        assert handler.accepted + handler.refused + handler.duplicates == len(payloads)
        assert handler.unreadable > 1000
        assert handler.accepted > 20
        assert len(await desk.replies()) == len(payloads)
        id_ = await desk.send(germinate(1))
        await asyncio.sleep(1)
        assert len(await desk.replies(id_)) == 1
        handler.stop()
        await task

    run(main())


async def resumed(desk: Desk, state: dict[str, Any], **settings: Any) -> asyncio.Task[None]:
    """Another life of the handler, from a checkpoint."""
    desk.handler = desk.another(**settings)
    desk.handler.load_state_dict(state)
    await desk.handler.look_at_earlier()
    task = await started(desk)
    assert desk.handler.caught_up
    return task


async def killed(task: asyncio.Task[None]) -> None:
    """As by kill -9: nothing is drained."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_what_was_answered_is_done_again_at_its_moment_and_nothing_else() -> None:
    """Applied: again, at the step of the first time, unasked and unanswered; refused: not at all."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        state = desk.handler.state_dict()
        late = germinate(1, expires=clock() + 5)  # is over when it is done again
        some: list[Body] = [late, germinate(99), germinate(2), Checkpoint(run=RUN)]
        for number, body in enumerate([*some, germinate(3), germinate(4)]):
            await desk.send(body, f"id {number}")
        await asyncio.sleep(0.1)
        first, second, third, last, _ = desk.handler.take()
        assert isinstance(first.command, Checkpoint)  # it is more urgent
        assert (slot(second), slot(third), slot(last)) == (1, 2, 3)
        desk.handler.settle(second, applied(300, milestone=1))
        desk.handler.settle(third, applied(260, milestone=2))  # after a rewind
        desk.handler.settle(first, applied(260, milestone=2, detail="checkpoint 7"))
        desk.handler.settle(last, Refused(run=RUN, reason="guard", detail="no room"))
        await asyncio.sleep(1)
        before = await desk.replies()
        await killed(task)
        await asyncio.sleep(10)

        task = await resumed(desk, state)
        await desk.send(germinate(5), "id 6")
        await asyncio.sleep(0.1)
        assert desk.handler.waiting == 4
        assert [slot(each) for each in desk.handler.take(moment=(0, 900))] == [5]  # is new
        assert desk.handler.take(moment=(1, 299)) == []
        (again,) = desk.handler.take(moment=(1, 300))
        assert slot(again) == 1
        assert desk.handler.take(moment=(1, 900)) == []
        then, unanswered = desk.handler.take(moment=(2, 260))
        assert (slot(then), slot(unanswered)) == (2, 4)
        told = again.told
        assert told is not None
        assert structs.replace(told, asker=None, entry=None, digest=None) == applied(
            300, milestone=1
        )
        assert unanswered.told is None
        for each in (again, then, unanswered):
            desk.handler.settle(each, applied(1))
        await asyncio.sleep(1)
        after = (await desk.replies())[len(before) :]
        assert after == [
            Accepted(run=RUN, waiting=2),  # the unanswered one, behind two
            Accepted(run=RUN, waiting=0),  # the new one
            applied(1),
        ]
        assert position(desk.handler.position) < position((await desk.bus.info("commands")).last)
        await desk.send(germinate(99), "id 1")  # a copy of what was refused
        await asyncio.sleep(1)
        assert (await desk.replies())[-1] == legal(germinate(99))
        desk.handler.stop()
        await task

    run(main())


def test_an_outcome_that_differs_the_second_time_is_told() -> None:
    """Whoever was told that it is applied hears that it is not any more."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        state = desk.handler.state_dict()
        await desk.send(germinate(1), "id")
        await asyncio.sleep(0.1)
        (request,) = desk.handler.take()
        desk.handler.settle(request, applied(3))
        await asyncio.sleep(0.1)
        await killed(task)
        task = await resumed(desk, state)
        refused = Refused(run=RUN, reason="guard", detail="another machine")
        desk.handler.settle(desk.handler.take(moment=(0, 3))[0], refused)
        await asyncio.sleep(0.1)
        assert (await desk.replies("id"))[-2:] == [applied(3), refused]
        desk.handler.stop()
        await task

    run(main())


def test_more_than_may_wait_is_read_again_without_a_refusal() -> None:
    """What had come before the run went on is never too much; of what is new the rest is refused."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        state = desk.handler.state_dict()
        for number in range(50):
            await desk.send(germinate(number), f"id {number}")
        await asyncio.sleep(0.1)
        for request in desk.handler.take():
            desk.handler.settle(request, applied(slot(request)))
        for number in range(50, 60):  # not answered: killed before
            await desk.send(germinate(number), f"id {number}")
        await killed(task)

        task = await resumed(desk, state, capacity=4, earlier=20, batch=7)
        assert 20 <= desk.handler.waiting < 50  # the others wait in the stream
        done: list[int] = []
        while len(done) < 60:
            for request in desk.handler.take(moment=(0, 1000)):
                done.append(slot(request))
                desk.handler.settle(request, applied(slot(request)))
            await asyncio.sleep(0.01)
        assert done == list(range(60))
        assert desk.handler.refused == 0
        for number in range(6):
            await desk.send(germinate(number), f"new {number}")
        await asyncio.sleep(0.1)
        assert (desk.handler.waiting, desk.handler.refused) == (4, 2)
        desk.handler.stop()
        await task

    run(main())


def test_a_stream_that_was_trimmed_keeps_nobody_waiting() -> None:
    """Nothing of what had come is there: the run has caught up at once."""

    async def main() -> None:
        desk = Desk()
        state = desk.handler.state_dict()
        await desk.send(germinate(1), "id")
        await desk.bus.trim("commands", before="9" * 15)
        desk.handler.load_state_dict(state)
        await desk.handler.look_at_earlier()
        assert not desk.handler.caught_up
        task = await started(desk)
        assert desk.handler.caught_up
        desk.handler.stop()
        await task

    run(main())


def test_two_producers_may_have_given_one_id() -> None:
    """After a kill each one's command is as it was answered: both applied, or one and not the other."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        state = desk.handler.state_dict()
        other = Stamp("somebody else", clock=clock)
        for number, stamp in enumerate((desk.sender, other)):
            for id_ in ("both", "one"):
                slot_ = 2 * number + (id_ == "one")
                await desk.bus.publish("commands", wire.encode(stamp(germinate(slot_), id=id_)))
        await asyncio.sleep(0.1)
        requests = desk.handler.take()
        guard = Refused(run=RUN, reason="guard", detail="no room")
        for request, step in zip(requests[:3], (3, 4, 5), strict=True):
            desk.handler.settle(request, applied(step))
        desk.handler.settle(requests[3], guard)
        await asyncio.sleep(0.1)
        told = [e for e in await desk.answers() if not isinstance(e.body, Accepted)]
        entries = [each.id for each in await desk.bus.read("commands")]
        who = [desk.sender.producer] * 2 + [other.producer] * 2
        assert [(e.body.asker, e.body.entry) for e in told] == list(zip(who, entries, strict=True))  # type: ignore[union-attr]
        await killed(task)

        task = await resumed(desk, state)
        again = desk.handler.take()
        steps = [(slot(each), each.told.step) for each in again if each.told is not None]
        assert steps == [(0, 3), (1, 4), (2, 5)]
        assert len(again) == 3  # what was refused stays so
        desk.handler.stop()
        await task

    run(main())


@pytest.mark.parametrize("forges", [False, True])
def test_where_commands_are_signed_only_signed_answers_count(forges: bool) -> None:
    """What was applied is done again; what somebody without the key says, or copies, is nothing."""

    async def main() -> None:
        desk = Desk()
        desk.handler = desk.another(verify=Verifier((KEY,)))
        task = await started(desk)
        state = desk.handler.state_dict()

        async def sends(number: int) -> None:
            signed = Signer(KEY)(desk.sender(germinate(number), id=f"id {number}"))
            await desk.bus.publish("commands", wire.encode(signed))
            await asyncio.sleep(0.1)

        await sends(1)
        (request,) = desk.handler.take()
        desk.handler.settle(request, applied(3))
        await asyncio.sleep(0.1)
        await killed(task)
        await sends(2)
        if forges:
            entry = (await desk.bus.info("commands")).last
            refused = Refused(run=RUN, reason="guard", detail="", asker=desk.sender.producer)
            forged = structs.replace(refused, detail="forged", entry=entry)
            answer = desk.sender(forged, correlation="id 2")
            for sign in (lambda each: each, Signer(Key("key", bytes(32)))):
                await desk.bus.publish("replies", wire.encode(sign(answer)))
            copy = (await desk.bus.read("replies"))[1]
            await desk.bus.publish("replies", copy.payload)
        task = await resumed(desk, state, verify=Verifier((KEY,)))
        again = [(slot(each), each.told and each.told.step) for each in desk.handler.take()]
        assert again == [(1, 3), (2, None)]
        desk.handler.stop()
        await task

    run(main())


def test_an_answer_has_the_trace_of_its_command() -> None:
    """The first one, the second one, and that to a copy."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        envelope = desk.sender(germinate(1), trace=trace)
        await desk.bus.publish("commands", wire.encode(envelope))
        await asyncio.sleep(0.1)
        (request,) = desk.handler.take()
        desk.handler.settle(request, applied())
        await desk.bus.publish("commands", wire.encode(envelope))
        await asyncio.sleep(0.1)
        assert [each.trace for each in await desk.answers()] == [trace] * 3
        desk.handler.stop()
        await task

    run(main())


def test_what_is_too_much_while_a_checkpoint_restores_says_so() -> None:
    """The others are applied after it."""

    async def main() -> None:
        desk = Desk(capacity=2)
        task = await started(desk)
        desk.handler.held = True
        ids = [await desk.send(germinate(number)) for number in range(3)]
        await asyncio.sleep(0.1)
        (answer,) = await desk.replies(ids[2])
        assert isinstance(answer, Refused)
        assert (answer.reason, answer.detail) == ("restoring", "2 commands wait: send it later")
        desk.handler.held = False
        assert len(desk.handler.take()) == 2
        desk.handler.stop()
        await task

    run(main())


def test_an_answer_that_no_entry_holds_is_a_refusal() -> None:
    """A status may be larger than an entry; the handler goes on."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        id_ = await desk.send(germinate(1))
        await asyncio.sleep(0.1)
        (request,) = desk.handler.take()
        status = Status(run=RUN, epoch=0, step=0, paused=False, detail="x" * (1 << 20))
        desk.handler.settle(request, status)
        await asyncio.sleep(0.1)
        answer = (await desk.replies(id_))[1]
        assert isinstance(answer, Refused)
        assert answer.reason == "failed"
        assert "an entry holds 1048576" in answer.detail
        desk.handler.stop()
        await task

    run(main())


def test_while_answers_cannot_be_sent_no_more_is_read() -> None:
    """Their memory is bounded; what was not read waits in its stream, and all of it is answered."""

    async def main() -> None:
        desk, away = Desk(unsent=10, batch=5), True
        publish = desk.bus.publish_many

        async def unreliable(stream: str, *arguments: Any, **settings: Any) -> list[str]:
            if away and stream == "replies":
                raise BusUnavailable("away")
            return await publish(stream, *arguments, **settings)

        desk.bus.publish_many = unreliable  # type: ignore[method-assign]
        task = await started(desk)
        for number in range(90):
            await desk.send(germinate(number))
        await asyncio.sleep(20)
        assert 10 < desk.handler.accepted < 20
        away = False
        await asyncio.sleep(20)
        assert desk.handler.accepted == len(await desk.replies()) == 90
        desk.handler.stop()
        await task

    run(main())


def test_what_cannot_be_read_is_given_up_with_its_cause() -> None:
    """What was refused for its signature or its content is not: it can be read."""

    async def main() -> None:
        desk = Desk()
        given: list[tuple[bytes, str]] = []
        desk.handler = desk.another(
            verify=Verifier((KEY,)),
            give_up=lambda delivery, error: given.append((delivery.payload, str(error))),
        )
        task = await started(desk)
        await desk.send(germinate(1))  # unsigned
        await desk.bus.publish("commands", b"no message")
        await asyncio.sleep(0.1)
        ((payload, error),) = given
        assert payload == b"no message"
        assert "malformed" in error
        assert desk.handler.unreadable == 1
        assert desk.handler.refusals == {"unsigned": 1, "malformed": 1}
        desk.handler.stop()
        await task

    run(main())


def test_a_stream_that_has_lost_what_was_read_is_found_out_when_the_run_goes_on() -> None:
    """Emptied while the run was away, also where newer commands have come since."""

    async def main() -> None:
        desk = Desk()
        task = await started(desk)
        assert await desk.another().look_at_earlier()  # nothing was read at all
        await desk.send(germinate(1))
        await asyncio.sleep(0.1)
        (request,) = desk.handler.take()
        desk.handler.settle(request, applied())
        state = desk.handler.state_dict()
        await desk.bus.trim("commands", before=state["position"])  # as behind a checkpoint
        await killed(task)
        after = desk.another()
        after.load_state_dict(state)
        assert await after.look_at_earlier()
        await desk.bus.wipe()
        for newer in (False, True):
            if newer:
                await asyncio.sleep(1)
                await desk.send(germinate(2))
            after.load_state_dict(state)
            assert not await after.look_at_earlier()
            told = desk.another()
            told.load_state_dict(after.state_dict())  # the next checkpoint
            assert await told.look_at_earlier()

    run(main())


def test_stopping_interrupts_a_read_once_however_often_it_is_asked() -> None:
    """Letting go of a connection takes a moment, in which a second cancel would be an error."""

    class Slow(InProcessBus):
        reading = False

        async def read(self, stream: str, **options: Any) -> list[Delivery]:
            """See `MessageBusClient`."""
            self.reading = True
            try:
                return await super().read(stream, **options)
            except asyncio.CancelledError:
                await asyncio.sleep(0.5)
                raise

    async def main() -> None:
        desk = Desk()
        desk.bus = Slow(clock=clock)
        desk.handler = desk.another(wait_s=1000.0)
        task = await started(desk)
        assert desk.bus.reading
        began = now()
        desk.handler.stop()
        await asyncio.sleep(0.1)
        desk.handler.stop()
        await task
        assert now() - began < 1

    run(main())

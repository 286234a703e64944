"""A run that is commanded over the bus against a model, on virtual time, with faults by a seed.

Two producers that give the same ids ask for things and ask again until they are answered. The run
carries them out between its steps, saves checkpoints, goes back to them and is killed; calls fail
before or after they were applied, and stall; the bus is emptied. Whatever the seed: nothing is done
twice, what is refused is not done, and what was answered as applied is done in the end, unless the
bus was emptied and the run killed before its next checkpoint, which it is told.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from kasmina.bus.client import FIRST, Loss, position
from kasmina.bus.commands import CommandConfig, CommandHandler
from kasmina.bus.deduplication import MessageKey
from kasmina.bus.errors import BusUnavailable
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.outbox import Outbox
from kasmina.bus.retry import Backoff, retry
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import Applied, Cancel, Command, Refused, Target
from tests.faults.simulating import Unreliable, check_fired, finds, simulate
from tests.runtime.bus.virtual import now, run

COMMANDS = 6  # of a producer
KILLS, WIPES = 3, 2
STEP_S = 0.05
FAILING = ("publish_many", "read", "info", "trim")
FOREVER = Backoff(attempts=1000, base_s=0.02, ceiling_s=0.3)


@dataclass(frozen=True)
class Kept:
    """A checkpoint: what was done, when it was saved, and what the handler knows."""

    effects: Counter[MessageKey]
    moment: tuple[int, int]
    commands: dict[str, Any]


class Commanded:
    """One simulation; everything in it follows from the seed."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.fired: Counter[str] = Counter()
        self.bus = InProcessBus(clock=lambda: 1e9 + now())
        self.stamps = [Stamp("north"), Stamp("south")]
        self.outboxes: list[Outbox] = []
        self.told: dict[MessageKey, set[type]] = {}
        self.illegal = {n for n in range(COMMANDS) if self.rng.random() < 0.1}
        empty = {"position": FIRST, "seen": "", "done": []}
        self.kept = Kept(Counter(), (0, 0), empty)
        self.since: dict[MessageKey, str] = {}  # done and in no checkpoint: by which entry
        self.gone: set[str] = set()  # entries that wipes took
        self.wiped = False  # since the checkpoint
        self.may_lack: set[MessageKey] = set()
        self.must_tell = False
        self.last: CommandHandler | None = None  # of the last life of the run
        self.ending = False  # nobody asks any more

    def client(self) -> Any:
        """A client of its own faults."""
        return Unreliable(self.bus.peer(), self.rng, FAILING, self.fired)

    # ------------------------------------------------------------------ who asks

    async def ask(self, stamp: Stamp) -> None:
        """Ask for everything, until all of it is answered."""
        client = self.client()
        outbox = Outbox(client, "commands", resend_s=2.0)
        self.outboxes.append(outbox)
        beside = [asyncio.create_task(work) for work in (outbox.run(), self.listen(stamp, outbox))]
        for number in range(COMMANDS):
            command = Cancel(run="r", target=Target(site="a", slot=number))
            await outbox.send(str(number), wire.encode(stamp(command, id=str(number))))
            await asyncio.sleep(self.rng.choice((0, 0.02, 0.3)))
        while len(outbox):
            await asyncio.sleep(0.1)
            assert now() < 600, "it never came to rest"
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)

    async def listen(self, stamp: Stamp, outbox: Outbox) -> None:
        """Hear what became of what; from the beginning where the stream begins anew."""
        after = FIRST
        while True:
            found = await self.bus.read("replies", after=after, wait_s=0.5)
            if not found and position((await self.bus.info("replies")).last) < position(after):
                after = FIRST
            for each in found:
                after = each.id
                envelope = wire.decode(each.payload)
                body = envelope.body
                if isinstance(body, Applied | Refused) and body.asker == stamp.producer:
                    key = MessageKey(stamp.producer, str(envelope.correlation))
                    self.told.setdefault(key, set()).add(type(body))
                    outbox.done(key.id)

    async def wipe(self) -> None:
        """Empty the bus at some moments; who asks hears of it soon, or later asks again."""
        for _ in range(self.rng.randrange(WIPES + 1)):
            await asyncio.sleep(2 * self.rng.random())
            entries = await self.bus.read("commands", count=1 << 20)
            self.gone |= {each.id for each in entries}
            self.fired["wiped"] += bool(entries)
            self.bus.broker.wipe()
            self.wiped = True
            self.note_what_may_be_lacking()
            if self.rng.random() < 0.5:
                loss = Loss("wiped", None, None, None, "it is empty")
                for outbox in self.outboxes:
                    outbox._on_loss(loss)

    def note_what_may_be_lacking(self) -> bool:
        """What no checkpoint holds and the bus does not any more; whether there is any."""
        lost = {key for key, entry in self.since.items() if entry in self.gone}
        self.may_lack |= lost
        return bool(lost)

    # ------------------------------------------------------------------ the run

    def check(self, command: Command) -> Refused | None:
        """Some commands are illegal."""
        assert isinstance(command, Cancel)
        illegal = command.target.slot in self.illegal
        return Refused(run="r", reason="illegal", detail="no") if illegal else None

    def restored(self, commands: dict[str, Any]) -> dict[str, Any]:
        """What a handler gets of a checkpoint."""
        return commands

    async def lives(self) -> None:
        """Live, be killed, go on; the last life ends when it is cancelled."""
        for _ in range(self.rng.randrange(KILLS + 1)):
            await self.life(self.rng.random() * 2)
            self.fired["killed"] += 1
            lost = self.note_what_may_be_lacking()
            self.must_tell = lost and self.wiped and self.kept.commands["seen"] != ""
        await self.life(float("inf"))

    async def life(self, seconds: float) -> None:
        """From the last checkpoint on."""
        client, config = self.client(), CommandConfig(wait_s=0.2, batch=self.rng.choice((1, 4, 64)))
        handler = CommandHandler(
            client, "commands", "replies", Stamp("run"), run="r", check=self.check, config=config,
            clock=lambda: 1e9 + now(), backoff=FOREVER, rng=self.rng,
        )  # fmt: skip
        handler.load_state_dict(self.restored(self.kept.commands))
        knows = await retry(
            handler.look_at_earlier, on=(BusUnavailable,), backoff=FOREVER, clock=now, rng=self.rng
        )
        assert not (self.must_tell and knows), "it is not told that commands may be lost"
        serving = asyncio.create_task(handler.run())
        try:
            await self.train(client, handler, now() + seconds)
        finally:
            self.fired["copies"] += handler.duplicates
            client.die()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def train(self, client: Any, handler: CommandHandler, end: float) -> None:
        """Step, obey, save and go back, for a time."""
        self.effects, (milestone, step) = Counter(self.kept.effects), self.kept.moment
        while not handler.caught_up and now() < end:
            await asyncio.sleep(STEP_S)
        if end == float("inf"):
            self.last = handler
        while now() < end:
            for request in handler.take(self.rng.choice((1, 99)), moment=(milestone, step)):
                self.fired["done again"] += request.told is not None
                done = Applied(run="r", epoch=0, step=step, milestone=milestone)
                outcome = self.check(request.command) or done  # as what is legal may have changed
                if outcome is done:
                    self.effects[request.asked.key] += 1
                    self.since[request.asked.key] = request.asked.entry
                handler.settle(request, outcome)
            step += 1
            await asyncio.sleep(STEP_S)
            chance = self.rng.random()
            if chance < 0.1:
                milestone += 1
                self.save(handler, (milestone, step))
                if chance < 0.05:
                    await self.trim(client)
            elif chance < 0.13 and not self.ending:
                self.fired["gone back"] += 1
                self.effects, (_, step) = Counter(self.kept.effects), self.kept.moment
                milestone += 1
                self.note_what_may_be_lacking()
                handler.load_state_dict(self.restored(self.kept.commands))

    async def rests(self) -> bool:
        """Whether the last life has read and done all there is."""
        if self.last is None or self.last.waiting:
            return False
        return position(self.last.position) >= position((await self.bus.info("commands")).last)

    def save(self, handler: CommandHandler, moment: tuple[int, int]) -> None:
        """A checkpoint, whole."""
        self.kept = Kept(Counter(self.effects), moment, handler.state_dict())
        left = self.since.items()  # done, undone by going back, and not read again yet
        self.since, self.wiped = {k: e for k, e in left if k not in self.effects}, False
        self.fired["saved"] += 1

    async def trim(self, client: Any) -> None:
        """Behind the checkpoint, if the bus lets."""
        try:
            await client.trim("commands", before=self.kept.commands["position"])
        except BusUnavailable:
            self.fired["not trimmed"] += 1

    # ------------------------------------------------------------------ the model

    async def live(self) -> None:
        """Run it all, and hold it against the model."""
        running = asyncio.create_task(self.lives())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.wipe())
            for stamp in self.stamps:
                tasks.create_task(self.ask(stamp))
        self.ending = True
        while not await self.rests():
            await asyncio.sleep(STEP_S)
            assert now() < 600, "it never came to rest"
            assert not running.done(), running.exception()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        keys = {MessageKey(s.producer, str(n)) for s in self.stamps for n in range(COMMANDS)}
        illegal = {key for key in keys if int(key.id) in self.illegal}
        assert self.told.keys() == keys
        assert all(self.told[key] == {Refused if key in illegal else Applied} for key in keys)
        assert all(count == 1 for count in self.effects.values()), "done twice"
        assert not illegal & set(self.effects), "done though it was refused"
        missing = keys - illegal - set(self.effects)
        assert missing <= self.may_lack, "lost"
        self.fired["lost with the bus"] += len(missing)


OTHERS = ("killed", "wiped", "saved", "gone back", "copies", "done again", "lost with the bus")


def test_no_seed_loses_or_doubles_a_command(
    record_property: Callable[[str, object], None],
) -> None:
    """1,000 simulations."""
    fired = simulate(Commanded, range(1000))
    check_fired(fired, FAILING, *OTHERS)
    record_property("counted", f"1,000 simulations, {fired.total():,} faults and copies")


@pytest.mark.long
def test_no_seed_of_many_loses_or_doubles_a_command() -> None:
    """10,000 simulations more."""
    check_fired(simulate(Commanded, range(1000, 11_000)), FAILING, *OTHERS)


class Forgets(Commanded):
    """Its run forgets at each restart what was done before its checkpoint."""

    def restored(self, commands: dict[str, Any]) -> dict[str, Any]:
        """Only the position."""
        return {**commands, "done": []}


class Ahead(Commanded):
    """Its checkpoints say that all was done which was read."""

    def save(self, handler: CommandHandler, moment: tuple[int, int]) -> None:
        """With a position that is too far."""
        super().save(handler, moment)
        ahead = {**self.kept.commands, "position": handler._read}
        self.kept = Kept(self.kept.effects, moment, ahead)


@pytest.mark.parametrize("planted", [Forgets, Ahead])
def test_the_model_finds_a_planted_fault(planted: type[Commanded]) -> None:
    """Or it would find no other."""
    assert finds(planted, range(200))


def test_an_outbox_that_ends_in_the_moment_of_a_loss_ends() -> None:
    """`asyncio.wait_for` of Python 3.11 forgets a cancel that comes with what it waits for."""

    async def main() -> None:
        for ticks in range(6):
            outbox = Outbox(InProcessBus(), "work", resend_s=1.0)
            task = asyncio.create_task(outbox.run())
            await asyncio.sleep(0.01)
            outbox._on_loss(Loss("wiped", None, None, None, "it is empty"))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=60.0)
            assert done, f"it goes on when cancelled {ticks} turns after a loss"

    run(main())

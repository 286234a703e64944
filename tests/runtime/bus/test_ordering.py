"""Order by property, on virtual time: what is handled, when, and what a gap does."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasmina.bus.ordering import (
    Order,
    OrderedMessageProcessor,
    ProcessorClosed,
    SequenceGap,
)
from kasmina.bus.retry import BadSetting
from kasmina.bus.sequencing import Gap
from tests.runtime.bus.virtual import now, run


class Note(NamedTuple):
    """A message of a test."""

    key: str
    number: int


Handler = Callable[[Note], Awaitable[None]]


def processor(
    handler: Handler, order: Order, gaps: list[Gap] | None = None, **settings_: float
) -> OrderedMessageProcessor[Note]:
    """Make a processor of notes."""
    return OrderedMessageProcessor(
        handler,
        key=lambda note: note.key,
        sequence=lambda note: note.number,
        order=order,
        on_gap=(gaps if gaps is not None else []).append,
        **settings_,  # type: ignore[arg-type]
    )


class Log:
    """Handles notes after random times, and watches what is promised of all orders."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.handled: list[Note] = []
        self.running: Counter[str] = Counter()
        self.most = 0

    async def __call__(self, note: Note) -> None:
        """Take a while."""
        self.running[note.key] += 1
        assert self.running[note.key] == 1, "two of one key at a time"
        self.most = max(self.most, self.running.total())
        await asyncio.sleep(self.rng.choice([0, 0.01, 0.3]))
        self.running[note.key] -= 1
        self.handled.append(note)

    def by_key(self) -> dict[str, list[int]]:
        """The numbers handled, by key."""
        found: dict[str, list[int]] = defaultdict(list)
        for note in self.handled:
            found[note.key].append(note.number)
        return found


def shuffled(notes: list[Note], reach: int, rng: Random) -> list[Note]:
    """Move each note by less than `reach` places."""
    order = sorted(range(len(notes)), key=lambda at: at + rng.random() * reach)
    return [notes[at] for at in order]


sizes = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@given(sizes=sizes, seed=st.integers(0, 10_000), concurrency=st.integers(1, 4))
@settings(deadline=None)
def test_per_key_keeps_the_order_of_arrival(sizes: list[int], seed: int, concurrency: int) -> None:
    """Of each key; keys run beside each other, never more than `concurrency`."""
    log, rng = Log(seed), Random(seed)
    notes = [Note(str(key), n) for key, size in enumerate(sizes) for n in range(size)]
    rng.shuffle(notes)

    async def main() -> None:
        each = processor(log, Order.PER_KEY, concurrency=concurrency, capacity=5)
        for note in notes:
            assert await each.submit(note)
            assert each.pending <= 5
        assert await each.close() == 0

    run(main())
    for key, numbers in log.by_key().items():
        assert numbers == [note.number for note in notes if note.key == key]
    assert Counter(log.handled) == Counter(notes)
    assert log.most <= concurrency


@given(sizes=sizes, seed=st.integers(0, 10_000), reach=st.integers(1, 60))
@settings(deadline=None)
def test_strict_handles_every_number_once_in_order_one_at_a_time(
    sizes: list[int], seed: int, reach: int
) -> None:
    """Whatever the order and however often they come."""
    log, rng = Log(seed), Random(seed)
    notes = [Note(str(key), n) for key, size in enumerate(sizes) for n in range(size)]
    doubled = notes + rng.choices(notes, k=len(notes) // 2)
    doubled = shuffled(doubled, reach, rng)

    async def main() -> int:
        each = processor(log, Order.STRICT)
        taken = [await each.submit(note) for note in doubled]
        assert taken.count(False) == each.duplicates == len(doubled) - len(notes)
        return await each.close()

    assert run(main()) == 0
    assert log.most == 1
    assert log.by_key() == {str(key): list(range(size)) for key, size in enumerate(sizes)}


@given(
    size=st.integers(1, 60),
    window=st.integers(1, 20),
    seed=st.integers(0, 10_000),
    reach=st.integers(1, 30),
    lost=st.sets(st.integers(0, 59), max_size=6),
)
@settings(deadline=None)
def test_best_effort_loses_nothing_and_waits_no_longer_than_its_window(
    size: int, window: int, seed: int, reach: int, lost: set[int]
) -> None:
    """All that came is handled once; in order, save for what came later than the window."""
    log, rng, gaps = Log(seed), Random(seed), list[Gap]()
    came = shuffled([Note("k", n) for n in range(size) if n not in lost], reach, rng)

    async def main() -> int:
        each = processor(log, Order.BEST_EFFORT, gaps, window=window, gap_s=2.0)
        for note in came:
            await each.submit(note)
            assert each._behind <= window
        began = now()
        while each.pending and now() < began + 60:
            await asyncio.sleep(0.5)
        late = each.late
        assert await each.close() == 0
        return late

    late = run(main())
    handled = log.by_key().get("k", [])
    assert sorted(handled) == sorted(note.number for note in came)
    steps_back = sum(b < max(handled[: at + 1]) for at, b in enumerate(handled))
    assert steps_back <= late
    skipped = {n for gap in gaps for n in range(gap.first, gap.last + 1)}
    never = {n for n in lost if min(handled, default=0) < n < max(handled, default=0)}
    assert never - skipped == set() or came[0].number > min(never - skipped)
    if reach <= 2 <= window and not lost and came[0].number == 0:
        assert late == 0
        assert handled == list(range(size))


def test_a_strict_gap_stops_its_key_only_until_the_message_comes() -> None:
    """It is told once after `gap_s`; other keys go on; the message lets the rest through."""

    async def main() -> None:
        log, gaps = Log(0), list[Gap]()
        each = processor(log, Order.STRICT, gaps, gap_s=1.0)
        for note in (Note("a", 0), Note("a", 2), Note("a", 3), Note("b", 0)):
            assert await each.submit(note)
        await each.drain()
        assert log.handled == [Note("a", 0), Note("b", 0)]
        assert not gaps
        await asyncio.sleep(5)
        assert gaps == [Gap("a", 1, 1)]
        assert each.pending == 2
        await each.submit(Note("a", 1))
        await each.drain()
        assert log.by_key() == {"a": [0, 1, 2, 3], "b": [0]}
        assert each.state_dict() == {"a": 4, "b": 1}

    run(main())


def test_skipping_a_strict_gap_is_said_and_final() -> None:
    """What waited goes on; the skipped number is a duplicate from then on."""

    async def main() -> None:
        log = Log(0)
        each = processor(log, Order.STRICT)
        await each.submit(Note("a", 3))
        assert each.skip("a") == Gap("a", 0, 2)
        assert each.skip("a") is None
        assert each.skip("unknown") is None
        assert not await each.submit(Note("a", 1))
        await each.close()
        assert log.handled == [Note("a", 3)]

    run(main())


def test_a_strict_key_without_room_refuses_and_keeps_what_it_has() -> None:
    """The message that is missing is always taken, so the refusal ends."""

    async def main() -> None:
        log = Log(0)
        each = processor(log, Order.STRICT, window=2)
        for number in (1, 2):
            await each.submit(Note("a", number))
        with pytest.raises(SequenceGap) as refused:
            await each.submit(Note("a", 2**64))
        assert str(refused.value) == (
            "key 'a': message 0 did not come and 2 wait behind it, which is all that may: have the "
            "producer send it again, or skip it and say so"
        )
        await each.submit(Note("a", 0))
        assert await each.close() == 0
        assert log.handled == [Note("a", 0), Note("a", 1), Note("a", 2)]

    run(main())


def test_a_jump_of_2_to_the_64_costs_no_memory() -> None:
    """Best effort goes on behind it after `gap_s`, and names it."""

    async def main() -> None:
        log, gaps = Log(0), list[Gap]()
        each = processor(log, Order.BEST_EFFORT, gaps, gap_s=1.0)
        for number in (5, 2**64, 6):
            await each.submit(Note("a", number))
        await asyncio.sleep(3)
        assert log.by_key() == {"a": [5, 6, 2**64]}
        assert gaps == [Gap("a", 7, 2**64 - 1)]
        assert await each.close() == 0

    run(main())


def test_many_keys_do_not_grow_it() -> None:
    """Only so many are remembered, and gaps over all keys take no more room than there is."""

    async def main() -> None:
        log, gaps = Log(0), list[Gap]()
        each = processor(log, Order.BEST_EFFORT, gaps, keys=10, capacity=4, gap_s=1e6)
        for key in range(100):
            await each.submit(Note(str(key), 0))
            await each.submit(Note(str(key), 2))
            assert len(each._sequencers) <= 11
            assert each._behind <= 4
        assert len(gaps) == 96
        assert await each.close() == 4

    run(main())


def test_a_slow_handler_makes_the_sender_wait() -> None:
    """The processor never holds more than its capacity."""

    async def main() -> None:
        async def slow(note: Note) -> None:
            await asyncio.sleep(1)

        each = processor(slow, Order.PER_KEY, capacity=3)
        for number in range(10):
            await each.submit(Note("a", number))
            assert each.pending <= 3
        assert now() == 7.0
        assert await each.close() == 0
        assert now() == 10.0

    run(main())


def test_what_a_handler_lets_out_is_raised_by_the_next_call() -> None:
    """Nothing is silently left."""

    async def main() -> None:
        async def bad(note: Note) -> None:
            raise RuntimeError("poison")

        each = processor(bad, Order.PER_KEY)
        await each.submit(Note("a", 0))
        with pytest.raises(RuntimeError, match="poison"):
            await each.drain()
        with pytest.raises(RuntimeError, match="poison"):
            await each.submit(Note("a", 1))
        with pytest.raises(RuntimeError, match="poison"):
            await each.close()

    run(main())


def test_closing_without_draining_cancels_and_counts() -> None:
    """A sender that waits for room is told; handlers see the cancellation."""

    async def main() -> None:
        cancelled = []

        async def hang(note: Note) -> None:
            try:
                await asyncio.sleep(1e9)
            finally:
                cancelled.append(note)

        each = processor(hang, Order.PER_KEY, capacity=2)
        await each.submit(Note("a", 0))
        await each.submit(Note("a", 1))
        third = asyncio.create_task(each.submit(Note("a", 2)))
        await asyncio.sleep(1)
        assert await each.close(drain=False) == 2
        assert cancelled == [Note("a", 0)]
        with pytest.raises(ProcessorClosed, match="takes no messages any more"):
            await third

    run(main())


def test_it_goes_on_where_it_was_saved() -> None:
    """A number from before is a duplicate, the next one is next."""

    async def main() -> None:
        log = Log(0)
        each = processor(log, Order.STRICT)
        each.load_state_dict({"a": 7})
        assert not await each.submit(Note("a", 6))
        await each.submit(Note("a", 7))
        await each.close()
        assert log.handled == [Note("a", 7)]

    run(main())


def test_numbers_are_needed_for_their_order() -> None:
    """The message says for which."""
    with pytest.raises(BadSetting) as refused:
        OrderedMessageProcessor(Log(0), key=lambda note: note.key, order=Order.STRICT)
    assert str(refused.value) == (
        "OrderedMessageProcessor: sequence is None; it is needed for the order 'strict'"
    )
    with pytest.raises(BadSetting, match="window is 0; it is 1 or more"):
        processor(Log(0), Order.STRICT, window=0)

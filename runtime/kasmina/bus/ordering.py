"""Handles messages in order: strictly, key by key, or as well as it can within a window."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Generic, TypeVar

from kasmina.bus.errors import BusClosed, BusError
from kasmina.bus.retry import BadSetting
from kasmina.bus.sequencing import Gap, Sequencer

M = TypeVar("M")

_ALL = ""  # the lane of strict order


class Order(Enum):
    """What is promised; one message of a key at a time in each of them."""

    STRICT = "strict"  # by number without a gap, and one message at a time over all keys
    PER_KEY = "per key"  # as they come, keys beside each other; needs no numbers
    BEST_EFFORT = "best effort"  # by number within a window, keys beside each other


class SequenceGap(BusError):
    """A message waits behind one that did not come, and there is no room to let it wait."""

    def __init__(self, gap: Gap, waiting: int) -> None:
        super().__init__(
            f"key {gap.key!r}: message {gap.first} did not come and {waiting} wait behind it, which "
            "is all that may: have the producer send it again, or skip it and say so"
        )
        self.gap = gap


class ProcessorClosed(BusClosed):
    """The processor takes no messages any more."""


class OrderedMessageProcessor(Generic[M]):
    """Runs a handler over messages, for one event loop.

    Numbers count per key. *Strict* handles a number only after the one before it; a gap stops its
    key until the message comes or `skip` is called, and `on_gap` hears of it after `gap_s`. *Best
    effort* waits for a gap `gap_s` seconds or `window` messages, whichever ends first, tells
    `on_gap`, and goes on; what comes too late is then handled as it comes.

    Args:
        handler: handles one message; it deals with its own errors. One that it lets out ends the
            processor: the next call raises it.
        key: the key of a message.
        sequence: the number of a message within its key; not needed for PER_KEY.
        order: what is promised.
        concurrency: handlers that run at a time, at most.
        capacity: messages that may be in the processor, behind gaps or not; `submit` waits for room.
        window: messages of a key that may wait behind a gap.
        gap_s: how long a gap is waited for, seconds.
        keys: keys whose next number is remembered; of more, those that were quiet longest go.
        on_gap: hears of every gap, once.

    Raises:
        BadSetting: a setting is outside its range, or numbers are needed and not given.
    """

    def __init__(
        self,
        handler: Callable[[M], Awaitable[None]],
        *,
        key: Callable[[M], str],
        sequence: Callable[[M], int] | None = None,
        order: Order = Order.PER_KEY,
        concurrency: int = 64,
        capacity: int = 1024,
        window: int = 64,
        gap_s: float = 1.0,
        keys: int = 65_536,
        on_gap: Callable[[Gap], None] = lambda gap: None,
    ) -> None:
        sizes = {"concurrency": concurrency, "capacity": capacity, "window": window, "keys": keys}
        for name, value in sizes.items():
            if value < 1:
                raise BadSetting("OrderedMessageProcessor", name, value, "1 or more")
        if order is not Order.PER_KEY and sequence is None:
            rule = f"needed for the order {order.value!r}"
            raise BadSetting("OrderedMessageProcessor", "sequence", sequence, rule)
        self.order, self.late, self.duplicates = order, 0, 0
        self._handler, self._key, self._sequence = handler, key, sequence or (lambda message: 0)
        self._capacity, self._window, self._gap_s, self._keys = capacity, window, gap_s, keys
        self._on_gap = on_gap
        self._sequencers: OrderedDict[str, Sequencer[M]] = OrderedDict()
        self._start = 0 if order is Order.STRICT else None
        self._gaps: dict[str, bool] = {}  # keys with an open gap: whether `on_gap` knows of it
        self._lanes: dict[str, deque[M]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(concurrency)
        self._changed = asyncio.Condition()
        self._timer: asyncio.TimerHandle | None = None
        self._behind = self._pending = 0  # messages behind gaps; those in lanes
        self._failure: BaseException | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """Messages that were taken and are not handled yet, those behind gaps too."""
        return self._pending + self._behind

    async def submit(self, message: M) -> bool:
        """Take a message, as soon as there is room.

        Returns:
            False where it was handled before (strict) or waits already, so that it is to be
            acknowledged and forgotten.

        Raises:
            SequenceGap: strict order, and its key has no room behind the gap.
            ProcessorClosed: after `close`.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._pending < self._capacity or self._over)
        self._check()
        if self.order is Order.PER_KEY:
            self._run(self._key(message), [message])
            return True
        return self._in_order(self._key(message), message)

    def skip(self, key: str) -> Gap | None:
        """Give up on the gap of a key; returns what was skipped, None where no gap is open."""
        sequencer = self._sequencers.get(key)
        if sequencer is None:
            return None
        gap, released = sequencer.gap(key), sequencer.skip(self._now())
        self._behind -= len(released)
        self._go_on(key, sequencer, released)
        return gap

    async def drain(self) -> None:
        """Wait until all is handled that no gap holds back; raises what a handler let out."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._pending or self._failure is not None)
        if self._failure is not None:
            raise self._failure

    async def close(self, *, drain: bool = True) -> int:
        """Take no more; returns how many messages were left unhandled.

        Args:
            drain: let what is in lanes finish; otherwise handlers are cancelled.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        async with self._changed:
            self._changed.notify_all()
        try:
            if drain:
                await self.drain()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return self.pending

    def state_dict(self) -> dict[str, int]:
        """The number after the last one that was handled, by key."""
        return {
            key: sequencer.handled
            for key, sequencer in self._sequencers.items()
            if sequencer.handled is not None
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take back what `state_dict` gave, before the first message."""
        self._sequencers = OrderedDict((key, Sequencer(number)) for key, number in state.items())

    @property
    def _over(self) -> bool:
        return self._closed or self._failure is not None

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise ProcessorClosed("the processor was closed and takes no messages any more")

    def _in_order(self, key: str, message: M) -> bool:
        sequencer, number = self._sequencer(key), self._sequence(message)
        strict, late = self.order is Order.STRICT, sequencer.is_late(number)
        if sequencer.holds(number) or (strict and late):
            self.duplicates += 1
            return False
        if late:
            self.late += 1
            self._run(key, [message])
            return True
        if strict:
            self._refuse_without_room(key, sequencer, number)
        before = len(sequencer)
        released = sequencer.push(number, message, self._now())
        self._behind += len(sequencer) - before
        self._go_on(key, sequencer, released)
        if not strict:
            self._give_up_without_room(key, sequencer)
        return True

    def _sequencer(self, key: str) -> Sequencer[M]:
        if key not in self._sequencers:
            self._sequencers[key] = Sequencer(self._start)
        self._sequencers.move_to_end(key)
        if len(self._sequencers) > self._keys:
            quiet = next((k for k in self._sequencers if k not in self._gaps), key)
            if quiet != key:
                del self._sequencers[quiet]
        return self._sequencers[key]

    def _refuse_without_room(self, key: str, sequencer: Sequencer[M], number: int) -> None:
        following = sequencer.following or 0
        full = len(sequencer) >= self._window or self._behind >= self._capacity
        if full and number != following:
            raise SequenceGap(Gap(key, following, number - 1), len(sequencer))

    def _give_up_without_room(self, key: str, sequencer: Sequencer[M]) -> None:
        if len(sequencer) > self._window:
            self._give_up(key)
        elif self._behind > self._capacity:
            self._give_up(min(self._gaps, key=self._since))

    def _go_on(self, key: str, sequencer: Sequencer[M], released: list[M]) -> None:
        """Hand on what was released, and keep account of the gap that is open now."""
        if released:
            self._gaps.pop(key, None)
        if len(sequencer):
            self._gaps.setdefault(key, False)
        self._run(key, released)
        self._watch()

    def _since(self, key: str) -> float:
        return self._sequencers[key].since or 0.0

    def _give_up(self, key: str) -> None:
        self._tell(self.skip(key))

    def _tell(self, gap: Gap | None) -> None:
        if gap is not None:
            self._on_gap(gap)

    def _watch(self) -> None:
        """Wake up when the oldest gap that nobody knows of has been waited for."""
        if self._timer is None and not self._over:
            since = [self._since(key) for key, told in self._gaps.items() if not told]
            if since:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_at(min(since) + self._gap_s, self._overdue)

    def _overdue(self) -> None:
        self._timer = None
        now = self._now()
        for key in [key for key, told in self._gaps.items() if not told]:
            if self._since(key) + self._gap_s > now:
                continue
            if self.order is Order.STRICT:
                self._gaps[key] = True
                self._tell(self._sequencers[key].gap(key))
            else:
                self._give_up(key)
        self._watch()

    def _run(self, key: str, messages: list[M]) -> None:
        lane = _ALL if self.order is Order.STRICT else key
        self._pending += len(messages)
        if not messages:
            return
        if lane in self._lanes:
            self._lanes[lane].extend(messages)
            return
        self._lanes[lane] = deque(messages)
        task = asyncio.get_running_loop().create_task(self._work(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, lane: str) -> None:
        """Handle what stands in a lane, one after the other, until it is empty."""
        messages = self._lanes[lane]
        try:
            while messages and self._failure is None:
                async with self._slots:
                    await self._handler(messages[0])
                self._handled(messages.popleft())
                await self._count_down()
        except Exception as error:  # noqa: BLE001  the next call raises it
            self._failure = error
        finally:
            del self._lanes[lane]
            async with self._changed:
                self._changed.notify_all()

    def _handled(self, message: M) -> None:
        sequencer = self._sequencers.get(self._key(message))
        if sequencer is not None:
            number = self._sequence(message)
            sequencer.handled = max(sequencer.handled or 0, number + 1)

    async def _count_down(self) -> None:
        async with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

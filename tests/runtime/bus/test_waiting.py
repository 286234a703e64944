"""Priorities without starvation, by property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasmina.bus.retry import BadSetting
from kasmina.bus.waiting import FairQueue


@given(
    stride=st.integers(1, 20),
    moves=st.lists(st.one_of(st.integers(0, 9), st.none()), max_size=200),
)
def test_nothing_is_overtaken_more_often_than_promised(
    stride: int, moves: list[int | None]
) -> None:
    """By at most `stride` later ones a step of priority, by none of its own or a lower urgency."""
    queue: FairQueue[tuple[int, int]] = FairQueue(stride)
    arrivals, waiting, left = 0, list[tuple[int, int]](), list[tuple[int, int]]()
    for priority in moves:
        if priority is not None:
            item = (arrivals, priority)
            order = [*queue, item]
            assert queue.put(item, priority) == list(queue).index(item)
            assert sorted(order) == sorted(queue)
            waiting.append(item)
            arrivals += 1
        elif waiting:
            item = queue.pop()
            waiting.remove(item)
            left.append(item)
    left += [queue.pop() for _ in range(len(queue))]
    for at, (arrival, priority) in enumerate(left):
        overtaking = [other for other in left[:at] if other[0] > arrival]
        assert all(other[1] < priority for other in overtaking)
        assert all(other[0] - arrival <= stride * (priority - other[1]) for other in overtaking)


def test_a_flood_of_urgent_ones_does_not_starve_the_rest() -> None:
    """The tenth priority leaves after 9 strides at the latest, however many come."""
    queue: FairQueue[str] = FairQueue(stride=5)
    queue.put("patient", 9)
    for served in range(1000):
        queue.put("urgent", 0)
        if queue.pop() == "patient":
            assert served == 44  # that many came later and were due earlier
            return
    pytest.fail("it starved")


def test_items_can_be_taken_out() -> None:
    """The others keep their order."""
    queue: FairQueue[int] = FairQueue()
    for item in range(6):
        queue.put(item, item % 3)
    assert queue.remove(lambda item: item % 2 == 0) == [0, 4, 2]
    assert list(queue) == [3, 1, 5]
    assert len(queue) == 3


def test_an_empty_queue_has_nothing() -> None:
    """As a list."""
    with pytest.raises(IndexError):
        FairQueue[int]().pop()
    with pytest.raises(BadSetting, match="FairQueue: stride is 0; it is 1 or more"):
        FairQueue[int](0)

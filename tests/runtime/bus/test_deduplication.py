"""What was done already."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasmina.bus.deduplication import MessageDeduplicator, MessageKey
from kasmina.bus.retry import BadSetting

keys = st.builds(MessageKey, st.sampled_from("ab"), st.sampled_from([str(n) for n in range(9)]))


@given(window=st.integers(1, 6), keys=st.lists(keys, max_size=80), cut=st.integers(0, 80))
def test_it_knows_exactly_the_last_ones(window: int, keys: list[MessageKey], cut: int) -> None:
    """Also where it was saved and restored in between; a duplicate keeps its age."""
    found: MessageDeduplicator[int] = MessageDeduplicator(window)
    model: list[tuple[MessageKey, int]] = []
    for at, key in enumerate(keys):
        if at == cut:
            state = found.state_dict()
            found = MessageDeduplicator(window)
            found.load_state_dict(state)
        known = dict(model)
        assert found.get(key) == known.get(key)
        assert (key in found) == (key in known)
        found.remember(key, at)
        model = [(k, at if k == key else v) for k, v in model]
        if key not in known:
            model = [*model, (key, at)][-window:]
    assert found.state_dict() == [(*key, value) for key, value in model]
    assert len(found) <= window


def test_two_producers_may_use_one_id() -> None:
    """An id counts within its producer."""
    found: MessageDeduplicator[str] = MessageDeduplicator()
    found.remember(MessageKey("a", "1"), "applied")
    assert MessageKey("b", "1") not in found


def test_a_smaller_window_takes_back_the_newest() -> None:
    """Of a longer state."""
    found: MessageDeduplicator[int] = MessageDeduplicator(2)
    found.load_state_dict([("a", str(n), n) for n in range(5)])
    assert found.state_dict() == [("a", "3", 3), ("a", "4", 4)]
    assert found.forgotten == 0


def test_an_empty_window_is_refused() -> None:
    """It would remember nothing."""
    with pytest.raises(BadSetting, match="window is 0; it is 1 message or more"):
        MessageDeduplicator(0)

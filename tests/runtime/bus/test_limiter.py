"""The rate limiter against a bucket that is counted in exact fractions."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasmina.bus.limiter import RateLimiter
from kasmina.bus.retry import BadSetting
from tests.runtime.bus.virtual import now, run

moves = st.lists(
    st.tuples(st.integers(-2, 64), st.integers(1, 6)),  # eighths of a second that pass, tokens
    min_size=1,
    max_size=60,
)


@given(rate=st.sampled_from([0.5, 1.0, 4.0, 32.0]), burst=st.integers(1, 8), moves=moves)
@settings(deadline=None)
def test_it_lets_pass_what_an_exact_bucket_does(
    rate: float, burst: int, moves: list[tuple[int, int]]
) -> None:
    """The same tokens at the same times, and the same waits; a clock that steps back is held."""
    time = [0.0]
    limiter = RateLimiter(rate, burst, clock=lambda: time[0])
    level, latest = Fraction(burst), Fraction(0)
    for eighths, tokens in moves:
        time[0] += eighths / 8
        passed = max(Fraction(0), Fraction(time[0]) - latest)
        latest += passed
        level = min(Fraction(burst), level + passed * Fraction(rate))
        if tokens > burst:
            with pytest.raises(BadSetting):
                limiter.try_acquire(tokens)
            continue
        wait = max(Fraction(0), (tokens - level) / Fraction(rate))
        assert limiter.wait_s(tokens) == float(wait)
        assert limiter.try_acquire(tokens) == (wait == 0)
        if wait == 0:
            level -= tokens


def test_those_that_wait_pass_in_order_and_at_the_rate() -> None:
    """Ten tasks at 4 a second after a burst of 2; one that is cancelled takes nothing."""

    async def main() -> list[tuple[int, float]]:
        limiter, passed = RateLimiter(4.0, 2, clock=now), list[tuple[int, float]]()

        async def one(name: int) -> None:
            await limiter.acquire()
            passed.append((name, now()))

        tasks = [asyncio.create_task(one(name)) for name in range(10)]
        await asyncio.sleep(0.3)
        tasks[5].cancel()
        await asyncio.wait(tasks)
        assert tasks[5].cancelled()
        return passed

    passed = run(main())
    assert [name for name, _ in passed] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert [time for _, time in passed] == pytest.approx(
        [0, 0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75], abs=1e-5
    )


@pytest.mark.parametrize(
    ("rate", "burst", "message"),
    [
        (0.0, 1, "RateLimiter: rate is 0.0; it is more than 0 tokens a second"),
        (float("nan"), 1, "RateLimiter: rate is nan; it is more than 0 tokens a second"),
        (1.0, 0, "RateLimiter: burst is 0; it is 1 token or more"),
    ],
)
def test_settings_outside_their_range_are_refused(rate: float, burst: int, message: str) -> None:
    """The message names setting, value and range."""
    with pytest.raises(BadSetting) as refused:
        RateLimiter(rate, burst)
    assert str(refused.value) == message


def test_more_than_the_bucket_holds_is_refused_at_once() -> None:
    """It would wait for ever."""
    with pytest.raises(BadSetting) as refused:
        asyncio.run(RateLimiter(1.0, 3).acquire(4))
    assert str(refused.value) == "RateLimiter: tokens is 4; it is from 1 to the burst, which is 3"

"""Retries on virtual time."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasmina.bus.breaker import CircuitBreaker, CircuitOpen
from kasmina.bus.retry import Backoff, BadSetting, retry
from tests.runtime.bus.virtual import now, run

backoffs = st.builds(
    Backoff,
    attempts=st.integers(1, 12),
    base_s=st.floats(0, 10),
    factor=st.floats(1, 1e3),
    ceiling_s=st.floats(0, 100),
    jitter=st.sampled_from([0.0, 0.5, 1.0]),
)


@given(backoff=backoffs, fails=st.integers(0, 14), seed=st.integers(0, 9))
def test_it_calls_as_often_and_waits_as_long_as_it_says(
    backoff: Backoff, fails: int, seed: int
) -> None:
    """Attempts are exact; each wait is the one that the random numbers give."""
    calls: list[float] = []

    async def call() -> str:
        calls.append(now())
        if len(calls) <= fails:
            raise OSError(len(calls))
        return "done"

    async def main() -> str:
        return await retry(call, on=(OSError,), backoff=backoff, clock=now, rng=Random(seed))

    if fails >= backoff.attempts:
        with pytest.raises(OSError) as raised:
            run(main())
        assert raised.value.args == (backoff.attempts,)
        assert raised.value.__notes__ == [
            f"given up after {backoff.attempts} attempts in {calls[-1]:.3g} s"
        ]
    else:
        assert run(main()) == "done"
    assert len(calls) == min(fails + 1, backoff.attempts)
    rng = Random(seed)
    for attempt in range(1, len(calls)):
        longest = min(backoff.ceiling_s, backoff.base_s * backoff.factor ** (attempt - 1))
        drawn = longest * (1 - backoff.jitter * rng.random())
        assert calls[attempt] - calls[attempt - 1] == pytest.approx(drawn, abs=1e-8)


def test_huge_exponents_wait_for_the_ceiling() -> None:
    """No overflow reaches the caller."""
    assert Backoff(factor=1e300, ceiling_s=7.0).longest(1000) == 7.0


def test_other_errors_are_raised_at_once() -> None:
    """Only what was named is tried again."""
    calls = []

    async def call() -> None:
        calls.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run(retry(call, on=(OSError,)))
    assert calls == [1]


def test_no_attempt_begins_after_the_deadline() -> None:
    """The wait that would end too late is not begun."""

    async def main() -> float:
        async def call() -> None:
            await asyncio.sleep(1)
            raise OSError

        backoff = Backoff(attempts=99, base_s=2.0, factor=1.0, jitter=0.0)
        with pytest.raises(OSError):
            await retry(call, on=(OSError,), backoff=backoff, deadline_s=8.0, clock=now)
        return now()

    assert run(main()) == 7.0  # 1 + 2 + 1 + 2 + 1


def test_an_open_breaker_is_waited_for() -> None:
    """Its wait is longer than the backoff's, and the retry takes it."""

    async def main() -> list[float]:
        breaker, calls = CircuitBreaker(failures=1, cooldown_s=3.0, clock=now), list[float]()

        async def call() -> None:
            with breaker.guard(OSError):
                calls.append(now())
                if len(calls) == 1:
                    raise OSError

        await retry(call, on=(OSError, CircuitOpen), backoff=Backoff(base_s=0.0), clock=now)
        return calls

    assert run(main()) == [0.0, 3.0]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("attempts", 0, "1 or more"),
        ("base_s", -1.0, "0 or more seconds"),
        ("factor", 0.5, "1 or more"),
        ("ceiling_s", float("nan"), "0 or more seconds"),
        ("jitter", 1.5, "from 0 to 1"),
    ],
)
def test_settings_outside_their_range_are_refused(name: str, value: float, rule: str) -> None:
    """The message names setting, value and range."""
    with pytest.raises(BadSetting) as refused:
        Backoff(**{name: value})  # type: ignore[arg-type]
    assert str(refused.value) == f"Backoff: {name} is {value!r}; it is {rule}"

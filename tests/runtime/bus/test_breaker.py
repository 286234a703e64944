"""The circuit breaker against a model, on a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kasmina.bus.breaker import BreakerState, CircuitBreaker, CircuitOpen, Permit
from kasmina.bus.retry import BadSetting


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Model(RuleBasedStateMachine):
    """The breaker beside a model that keeps the whole history of verdicts of each era."""

    @initialize(failures=st.integers(1, 4), trials=st.integers(1, 3))
    def begin(self, failures: int, trials: int) -> None:
        """Make both."""
        self.clock, self.failures, self.trials = Clock(), failures, trials
        self.breaker = CircuitBreaker(
            failures=failures, trials=trials, cooldown_s=1.0, ceiling_s=4.0, clock=self.clock
        )
        self.state, self.cooldown, self.opened = "closed", 1.0, 0.0
        self.open: list[Permit] = []  # of this era
        self.stale: list[Permit] = []
        self.verdicts: list[bool] = []  # of this era
        self.in_a_row = 0

    def become(self, state: str) -> None:
        """Begin another era."""
        self.state, self.verdicts = state, []
        self.stale += self.open
        self.open = []

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds

    @rule()
    def call(self) -> None:
        """Ask for a permit: the breaker agrees with the model on whether there is one."""
        if self.state == "open" and self.clock.now >= self.opened + self.cooldown:
            self.become("half open")
        full = len(self.open) + len(self.verdicts) >= self.trials
        if self.state == "open" or (self.state == "half open" and full):
            with pytest.raises(CircuitOpen) as refused:
                self.breaker.acquire()
            assert 0 < refused.value.retry_after_s <= self.cooldown
        else:
            self.open.append(self.breaker.acquire())

    @precondition(lambda self: self.open)
    @rule(data=st.data(), good=st.booleans())
    def verdict(self, data: st.DataObject, good: bool) -> None:
        """A call of this era ends."""
        permit = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        (permit.succeeded if good else permit.failed)()
        permit.failed()  # the second word of a permit counts for nothing
        self.verdicts.append(good)
        self.in_a_row = 0 if good else self.in_a_row + 1
        half = self.state == "half open"
        if not good and (half or self.in_a_row >= self.failures):
            self.cooldown = min(4.0, self.cooldown * 2) if half else self.cooldown
            self.opened = self.clock.now
            self.become("open")
        elif half and self.verdicts == [True] * self.trials:
            self.cooldown = 1.0
            self.become("closed")

    @precondition(lambda self: self.open)
    @rule()
    def drop(self) -> None:
        """A call is cancelled."""
        self.open.pop().dropped()

    @precondition(lambda self: self.stale)
    @rule(good=st.booleans())
    def stale_verdict(self, good: bool) -> None:
        """A call of an earlier era ends: nothing changes."""
        permit = self.stale.pop()
        (permit.succeeded if good else permit.failed)()

    @invariant()
    def agrees(self) -> None:
        """Both are in the same state."""
        if self.state == "open" and self.clock.now >= self.opened + self.cooldown:
            self.become("half open")
        assert self.breaker.state.value == self.state


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_message_says_what_to_do() -> None:
    """An open breaker names itself, the wait and the failures."""
    breaker = CircuitBreaker("redis at db1", failures=2, cooldown_s=2.0, clock=lambda: 0.0)
    for _ in range(2):
        with pytest.raises(OSError), breaker.guard(OSError):
            raise OSError
    with pytest.raises(CircuitOpen) as refused, breaker.guard(OSError):
        pytest.fail("the call was made")
    assert str(refused.value) == (
        "redis at db1 is left alone for another 2 s, after 2 failures in a row: look at the last "
        "error it gave"
    )


def test_other_errors_and_cancellation_say_nothing() -> None:
    """A half open breaker stays so when its trial is cancelled, and lets another one pass."""
    clock = Clock()
    breaker = CircuitBreaker(failures=1, clock=clock)
    with pytest.raises(OSError), breaker.guard(OSError):
        raise OSError
    clock.now = 1.0
    for error in (asyncio.CancelledError, ValueError):
        with pytest.raises(error), breaker.guard(OSError):
            raise error
        assert breaker.state is BreakerState.HALF_OPEN
    with breaker.guard(OSError):
        pass
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"failures": 0}, "CircuitBreaker: failures is 0; it is 1 or more"),
        ({"trials": 0}, "CircuitBreaker: trials is 0; it is 1 or more"),
        (
            {"cooldown_s": 40.0},
            (
                "CircuitBreaker: cooldown_s is 40.0; it is more than 0 and at most ceiling_s, "
                "which is 30.0"
            ),
        ),
    ],
)
def test_settings_outside_their_range_are_refused(
    settings_: dict[str, float], message: str
) -> None:
    """The message names setting, value and range."""
    with pytest.raises(BadSetting) as refused:
        CircuitBreaker(**settings_)  # type: ignore[arg-type]
    assert str(refused.value) == message

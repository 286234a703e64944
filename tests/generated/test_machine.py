"""The configuration for `transitions`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transitions import MachineError

from kasmina_generated.lifecycle import INITIAL, TERMINAL, Context, Event, Limits, State
from kasmina_generated.machine import RECYCLE, STATES, TRANSITIONS, Guarded, build_machine


class Seed(Guarded):
    """The least that a shared machine moves."""

    __slots__ = ("context", "epochs", "limits", "state")

    def __init__(self, state: State = INITIAL, epochs: int = 0, context: Context | None = None):
        self.state = state
        self.epochs = epochs
        self.context = context or Context()
        self.limits = Limits()


class Model(Guarded):
    """A model that may carry the machine's own methods."""

    def __init__(self) -> None:
        self.epochs, self.context, self.limits = 0, Context(), Limits()


def test_a_shared_machine_moves_any_seed() -> None:
    """The library gives the seed nothing but its state."""
    machine = build_machine()
    seeds = [Seed(), Seed(State.GERMINATED), Seed(State.TRAINING)]
    assert all(machine.events["cancel"].trigger(seed) for seed in seeds)
    assert [seed.state for seed in seeds] == [State.CANCELLED] * 3
    assert not hasattr(seeds[0], "__dict__")


def test_guards_are_asked() -> None:
    """An edge whose guard fails is not taken."""
    settle = build_machine().events[Event.settle.name]
    seed = Seed(State.STABILIZATION, epochs=1, context=Context(stability=0.5))
    assert not settle.trigger(seed)
    seed.context = Context(stability=0.95)
    assert settle.trigger(seed)
    assert seed.state is State.EVALUATING


def test_a_missing_edge_is_an_error() -> None:
    """The library says so itself."""
    with pytest.raises(MachineError):
        build_machine().events["cancel"].trigger(Seed(State.FOSSILIZED))


def test_a_slot_is_recycled() -> None:
    """The trigger of edges without an event."""
    seed = Seed(State.CULLED, epochs=3)
    assert build_machine().events[RECYCLE].trigger(seed)
    assert seed.state is State.DORMANT


def test_a_model_of_its_own() -> None:
    """With a model the library adds a method for each event."""
    model = Model()
    build_machine(model)
    states = [model.state]
    model.request_germination()  # type: ignore[attr-defined]
    assert [*states, model.state] == [State.DORMANT, State.GERMINATED]


def test_every_guard_has_a_name() -> None:
    """Conditions name methods of `Guarded`; ends are final."""
    for transition in TRANSITIONS:
        assert callable(getattr(Guarded, transition["conditions"]))
    assert {state["name"] for state in STATES if state["final"]} == TERMINAL


def guards_of_all_edges() -> Iterator[bool]:
    """Call each guard once."""
    seed = Seed(epochs=40, context=Context(alpha=1.0))
    return (getattr(seed, transition["conditions"])() for transition in TRANSITIONS)


def test_all_guards_can_be_asked() -> None:
    """Each gives a bool."""
    assert {type(passed) for passed in guards_of_all_edges()} == {bool}

"""One seed on the shared machine."""

from __future__ import annotations

import tracemalloc
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

import kasmina_spec
from kasmina.lifecycle import (
    Edge,
    GuardRefused,
    IllegalTransition,
    Lifecycle,
    LifecycleManager,
    NestedTrigger,
    NoRoom,
    UnknownName,
)


@pytest.fixture
def seed() -> LifecycleManager:
    """A fresh seed."""
    return LifecycleManager()


def _state(name: str) -> IntEnum:
    return Lifecycle.default().State[name]


def _context(**values: float) -> Any:
    return Lifecycle.default().Context(**values)


def _line(text: str) -> int:
    """Where a transition stands in the default spec."""
    lines = kasmina_spec.LIFECYCLE.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_a_seed_lives_from_germination_to_the_end() -> None:
    """Commands by hand, everything else by ticks, and what is kept on the way."""
    seed = LifecycleManager()
    assert seed.trigger("request_germination").target is _state("GERMINATED")
    best = {name: field.range[1] for name, field in seed.lifecycle.context_fields.items()}
    good = _context(**{**best, "reconstruction_loss": 0.0, "alpha": 1.0, "stability": 1.0})
    ticks = 0
    while seed.state not in (_state("FOSSILIZED"), _state("CULLED")):
        seed.tick(good)
        ticks += 1
    assert seed.state is _state("FOSSILIZED")
    assert [state.name for state in seed.history] == [
        "DORMANT", "GERMINATED", "TRAINING", "GRAFTING", "STABILIZATION", "EVALUATING",
        "FINE_TUNING",
    ]  # fmt: skip
    assert (seed.parent, seed.history_count) == (_state("FINE_TUNING"), 7)
    # min_epochs are compared before the increment, so each state takes one tick more than those
    assert ticks == sum(seed.lifecycle.tables.MIN_EPOCHS[state] + 1 for state in seed.history[1:])


def test_no_edge_for_the_event(seed: LifecycleManager) -> None:
    """The error names the state, the event and what is legal."""
    with pytest.raises(IllegalTransition) as caught:
        seed.trigger("promote")
    assert str(caught.value) == (
        "DORMANT has no edge for promote; legal events: emergency, cancel, request_germination"
    )
    assert caught.value.state is seed.state
    assert caught.value.event is Lifecycle.default().Event["promote"]
    assert [event.name for event in caught.value.legal] == [
        "emergency", "cancel", "request_germination",
    ]  # fmt: skip


def test_a_terminal_state_has_no_legal_events() -> None:
    """Said in words."""
    with pytest.raises(
        IllegalTransition, match="FOSSILIZED has no edge for cancel; legal events: "
    ):
        LifecycleManager(state=_state("FOSSILIZED")).trigger("cancel")
    assert LifecycleManager(state=_state("FOSSILIZED")).legal_events() == ()


def test_a_guard_that_refuses_shows_what_it_read() -> None:
    """Its text, the values, and the line of the YAML."""
    seed = LifecycleManager(state=_state("GRAFTING"))
    seed.epochs = 3
    with pytest.raises(GuardRefused) as caught:
        seed.trigger("complete", _context(alpha=0.75))
    line, longest = _line("on: complete"), seed.lifecycle.tables.MAX_EPOCHS[seed.state]
    assert str(caught.value) == (
        f"GRAFTING --complete--> STABILIZATION (line {line} of the spec) is not open: alpha >= 1.0 "
        f"with epochs = 3, min_epochs = 1, max_epochs = {longest}, alpha = 0.75"
    )
    assert caught.value.guard == "alpha >= 1.0"
    assert caught.value.values["alpha"] == 0.75
    assert caught.value.edge.line == line


def test_values_behind_a_word_of_the_spec_are_shown() -> None:
    """`learned` stands for fields and limits; those that were read are told."""
    seed = LifecycleManager(state=_state("TRAINING"))
    seed.epochs = 3
    with pytest.raises(GuardRefused) as caught:
        seed.trigger("reconstruction_pass", _context(reconstruction_loss=0.75))
    assert "learned" in caught.value.guard
    assert caught.value.values["reconstruction_loss"] == 0.75
    assert caught.value.values["max_reconstruction_loss"] == seed.limits.max_reconstruction_loss


def test_too_early_is_a_guard_that_refuses() -> None:
    """min_epochs is part of every edge but the urgent ones."""
    seed = LifecycleManager(state=_state("GRAFTING"))
    with pytest.raises(GuardRefused, match=r"alpha >= 1.0 with epochs = 0, min_epochs = 1"):
        seed.trigger("complete", _context(alpha=1.0))
    assert seed.trigger("emergency").target is _state("ROLLED_BACK")


def test_no_room_is_neither_illegal_nor_refused_by_a_guard() -> None:
    """The guard holds; the seed waits. Room is asked for only where it is needed."""
    seed = LifecycleManager(state=_state("GERMINATED"))
    asked: list[Edge] = []

    def none(edge: Edge) -> bool:
        asked.append(edge)
        return False

    with pytest.raises(NoRoom) as caught:
        seed.trigger("promote", has_room=none)
    assert str(caught.value) == (
        f"GERMINATED --promote--> TRAINING (line {_line('on: promote')} of the spec) has to wait: "
        "TRAINING has no room"
    )
    assert asked == [caught.value.edge]
    assert seed.tick(has_room=False) is None
    assert (seed.state, seed.epochs) == (_state("GERMINATED"), 1)
    assert seed.trigger("cancel", has_room=none).target is _state("CANCELLED")
    assert len(asked) == 1


def test_room_that_is_there_is_used() -> None:
    """A function may answer for each edge."""
    seed = LifecycleManager(state=_state("GERMINATED"))
    assert seed.tick(has_room=lambda edge: edge.target is _state("TRAINING")) is not None


def test_an_unknown_event_is_not_an_illegal_one(seed: LifecycleManager) -> None:
    """A misspelt name gets a hint, from every method."""
    for ask in (seed.trigger, seed.may):
        with pytest.raises(UnknownName, match=r"no event 'cancle'.*did you mean 'cancel'"):
            ask("cancle")


def test_may_says_what_trigger_would_do() -> None:
    """Without moving anything."""
    seed = LifecycleManager(state=_state("EVALUATING"))
    good, bad = _context(evaluation_score=0.5), _context(evaluation_score=-0.5)
    assert (seed.may("positive", good), seed.may("positive", bad)) == (True, False)
    assert not seed.may("promote")
    names = {c: [e.name for e in seed.legal_events(c)] for c in (None, good, bad)}
    assert names == {
        None: ["emergency", "cancel", "positive", "negative"],
        good: ["emergency", "cancel", "positive"],
        bad: ["emergency", "cancel", "negative"],
    }
    assert seed.state is _state("EVALUATING")


def test_events_go_by_name_or_by_member(seed: LifecycleManager) -> None:
    """Both are the same event."""
    assert seed.may(Lifecycle.default().Event["cancel"])
    assert seed.trigger(Lifecycle.default().Event["cancel"]).target is _state("CANCELLED")


def test_a_tick_takes_commands_before_automatic_edges() -> None:
    """In the spec's order of priority; an idle command is not taken."""
    commands = [Lifecycle.default().Event[name] for name in ("cancel", "emergency")]
    seed = LifecycleManager(state=_state("GERMINATED"))
    edge = seed.tick(commands=commands)
    assert edge is not None
    assert edge.event is commands[1]
    assert LifecycleManager(state=_state("DORMANT")).tick() is None


def test_limits_may_change_between_two_events() -> None:
    """They are read at each guard."""
    limits = Lifecycle.default().Limits
    seed = LifecycleManager(state=_state("EVALUATING"), limits=limits(min_evaluation_score=1.0))
    context = _context(evaluation_score=0.5)
    assert not seed.may("positive", context)
    seed.limits = limits(min_evaluation_score=0.25)
    assert seed.may("positive", context)


def test_epochs_and_generation_saturate() -> None:
    """Neither wraps."""
    seed = LifecycleManager(state=_state("FOSSILIZED"))
    seed.epochs = 32_767
    seed.tick()
    assert seed.epochs == 32_767
    slot = LifecycleManager(state=_state("CULLED"))
    slot.epochs, slot.generation = 3, 2_147_483_647
    edge = slot.tick()
    assert edge is not None
    assert edge.recycle
    assert (slot.generation, slot.parent) == (2_147_483_647, None)


def test_history_keeps_ten_and_its_count_saturates() -> None:
    """As the state tensor's does."""
    seed = LifecycleManager()
    seed.history_count = 32_758
    for _ in range(3):
        seed.trigger("cancel")
        seed.epochs = 3
        seed.tick()
    assert seed.history_count == 32_754
    assert [state.name for state in seed.history] == ["DORMANT", "CANCELLED"] * 3


def test_callbacks_hear_of_a_transition_in_order(seed: LifecycleManager) -> None:
    """Exit before the change; enter and transition after everything was counted."""
    heard: list[tuple[str, str, int]] = []
    for register in (seed.on_transition, seed.on_enter, seed.on_exit):
        name = register.__name__

        @register
        def hear(manager: LifecycleManager, edge: Edge, name: str = name) -> None:
            heard.append((name, manager.state.name, manager.history_count))

    seed.trigger("cancel")
    assert heard == [
        ("on_exit", "DORMANT", 0),
        ("on_enter", "CANCELLED", 1),
        ("on_transition", "CANCELLED", 1),
    ]


def test_a_failing_exit_keeps_the_seed_where_it_was(seed: LifecycleManager) -> None:
    """The exception passes through, and the next trigger works."""
    failing = [True]

    @seed.on_exit
    def fail(manager: LifecycleManager, edge: Edge) -> None:
        if failing.pop():
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        seed.trigger("cancel")
    assert (seed.state, seed.history_count) == (_state("DORMANT"), 0)
    failing.append(False)
    seed.trigger("cancel")


def test_a_callback_cannot_move_the_same_seed(seed: LifecycleManager) -> None:
    """It may move another one."""
    other = LifecycleManager()
    seed.on_enter(lambda manager, edge: other.trigger("cancel"))
    seed.on_transition(lambda manager, edge: manager.tick())
    with pytest.raises(NestedTrigger) as caught:
        seed.trigger("cancel")
    assert str(caught.value) == (
        f"a callback of DORMANT --cancel--> CANCELLED (line {_line('on: cancel')} of the spec) "
        "tried to move the same seed; a seed takes one edge at a time, so trigger after the "
        "callback has returned"
    )
    assert other.state is _state("CANCELLED")


def test_all_managers_share_one_machine(seed: LifecycleManager) -> None:
    """So an instance is small, and one does not move another."""
    other = LifecycleManager()
    assert other._shared is seed._shared
    seed.trigger("cancel")
    assert other.state is _state("DORMANT")


def test_an_instance_takes_at_most_5_kilobytes() -> None:
    """Measured over a thousand, after transitions."""
    LifecycleManager().trigger("cancel")
    tracemalloc.start()
    seeds = [LifecycleManager() for _ in range(1000)]
    for seed in seeds:
        seed.trigger("cancel")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(seeds) <= 5000


def test_v1_counts_what_it_does_not_store() -> None:
    """A manager keeps history and generation although the old columns do not."""
    seed = LifecycleManager(Lifecycle.v1())
    seed.trigger("cancel")
    seed.epochs = 3
    seed.tick()
    assert (seed.generation, len(seed.history)) == (1, 2)


def test_it_says_where_it_stands(seed: LifecycleManager) -> None:
    """The text for a debugger."""
    assert repr(seed) == "LifecycleManager(DORMANT, epochs=0, generation=0)"


def test_the_machine_is_the_generated_one(seed: LifecycleManager, tmp_path: Path) -> None:
    """Its triggers are the spec's events, so the library's own tools can read it."""
    machine = seed._shared.machine
    assert set(machine.get_triggers("DORMANT")) == {"emergency", "cancel", "request_germination"}

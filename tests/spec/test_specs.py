"""The shipped specs say what the design says."""

from __future__ import annotations

from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import check_spec, read_spec
from kasmina_generator.model import Spec


@pytest.fixture(scope="module")
def default() -> Spec:
    """Return the 11-state lifecycle."""
    return read_spec(kasmina_spec.LIFECYCLE)


def test_every_path_leads_to_a_file() -> None:
    """The package hands out paths and nothing else."""
    paths = [value for value in vars(kasmina_spec).values() if isinstance(value, Path)]
    assert len(paths) == 13
    assert all(path.exists() for path in paths)


def test_the_default_states(default: Spec) -> None:
    """Code, plane and what trains, as in the design's table."""
    rows = [(s.code, s.name, *(value for _, value in s.attributes)) for s in default.states]
    assert rows == [
        (0, "DORMANT", "identity", "host", "forbidden"),
        (1, "GERMINATED", "identity", "host", "forbidden"),
        (2, "TRAINING", "shadow", "aside", "required"),
        (3, "GRAFTING", "blend", "joint", "required"),
        (4, "STABILIZATION", "full", "host", "required"),
        (5, "EVALUATING", "full", "host", "required"),
        (6, "FINE_TUNING", "full", "joint", "required"),
        (7, "FOSSILIZED", "full", "joint", "required"),
        (8, "CULLED", "withdraw", "host", "leaving"),
        (9, "CANCELLED", "withdraw", "host", "leaving"),
        (10, "ROLLED_BACK", "identity", "host", "forbidden"),
    ]
    unbounded = [s.name for s in default.states if not s.terminal and s.max_epochs is None]
    assert unbounded == ["DORMANT"]  # the only unbounded wait


def test_the_default_edges(default: Spec) -> None:
    """What leaves each state besides emergency and cancel."""
    found = {
        (edge.source, edge.event, edge.target)
        for edge in default.edges
        if edge.event not in ("emergency", "cancel")
    }
    assert found == {
        ("DORMANT", "request_germination", "GERMINATED"),
        ("GERMINATED", "promote", "TRAINING"),
        ("GERMINATED", "expire", "CANCELLED"),
        ("TRAINING", "reconstruction_pass", "GRAFTING"),
        ("TRAINING", "fail", "CULLED"),
        ("GRAFTING", "complete", "STABILIZATION"),
        ("GRAFTING", "overrun", "ROLLED_BACK"),
        ("STABILIZATION", "settle", "EVALUATING"),
        ("STABILIZATION", "overrun", "ROLLED_BACK"),
        ("EVALUATING", "positive", "FINE_TUNING"),
        ("EVALUATING", "negative", "CULLED"),
        ("FINE_TUNING", "improve", "FOSSILIZED"),
        ("FINE_TUNING", "fail", "CULLED"),
        ("CULLED", "recycle", "DORMANT"),
        ("CANCELLED", "recycle", "DORMANT"),
        ("ROLLED_BACK", "recycle", "DORMANT"),
    }


def test_every_working_state_can_be_stopped(default: Spec) -> None:
    """Emergency before cancel, and both before anything else."""
    for state in default.states:
        if not state.terminal:
            events = [edge.event for edge in default.edges if edge.source == state.name]
            assert events[:2] == ["emergency", "cancel"]


def test_the_reconstruction() -> None:
    """Five states and four columns, and it says that it is a reconstruction."""
    spec = read_spec(kasmina_spec.LIFECYCLE_V1)
    assert check_spec(spec) == []
    assert [s.name for s in spec.states] == [
        "DORMANT", "GERMINATED", "GRAFTING", "FOSSILIZED", "CULLED",
    ]  # fmt: skip
    assert spec.columns is not None
    assert [c.name for c in spec.columns.columns] == ["state", "blueprint", "epochs", "strategy"]
    assert spec.meaning.startswith("Reconstruction")

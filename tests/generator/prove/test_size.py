"""Large machines: what is said, and that it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from kasmina.bench.spec import large
from kasmina_generator.prove import Proof, prove
from tests.generator.prove.machines import proved
from tests.generator.specs import read

LONG_WAITS = (
    ("max_epochs: 3,", "max_epochs: 32000,"),
    ("max_epochs: 2,", "max_epochs: 32000,"),
)


def long_lives(folder: Path, states: int, formulas: str) -> Proof:
    """Return the proof of a row of states that each last for 32,000 epochs."""
    text = large(states, 3 * (states - 1))
    for number in range(20):
        text = text.replace(f"max_epochs: {5 + number},", "max_epochs: 32000,")
    return prove(read(folder, text + formulas))


def test_long_waits_are_counted_exactly(tmp_path: Path) -> None:
    """64,000 places, and the bound is their sum."""
    proof = proved(tmp_path, *LONG_WAITS)
    assert proof.size.places > 64_000
    assert [(bound.state, bound.epochs) for bound in proof.bounds] == [("A", 64_001), ("B", 32_001)]


def test_too_many_places_are_merged(tmp_path: Path) -> None:
    """The bound stays exact; a formula that counts steps is left unproved, others are not."""
    formulas = (
        "properties:\n"
        '  - {name: ends, ctl: "AG EF END"}\n'
        '  - {name: counts, ctl: "AG(S0 -> AX (S0 | END))"}\n'
    )
    proof = long_lives(tmp_path, 9, formulas)
    assert not proof.findings
    assert "ctl: ends (product)" in proof.proved
    assert ["counts" in line for line in proof.unproved] == [True]
    assert any("too large to tell all epochs apart" in note for note in proof.notes)
    assert proof.bounds[0].epochs == 8 * 32_000 + 1


@pytest.mark.long
def test_a_thousand_edges(tmp_path: Path) -> None:
    """A hundred states with ten edges each are proved."""
    proof = prove(read(tmp_path, large(100, 990)))
    assert not proof.findings
    assert not proof.unproved

"""Large specs are compared in bearable time."""

from __future__ import annotations

import time
from pathlib import Path

from kasmina_generator import read_spec
from kasmina_generator.difference import compare

STATES, EVENTS = 100, 10
REPEATED = 10  # transitions of each event, from every state


def machine(folder: Path, threshold: float) -> Path:
    """Write a machine of 10,000 edges, each with a guard."""
    states = "\n".join(
        f"  S{n}: {{code: {n}, max_epochs: unbounded, meaning: One.}}" for n in range(STATES)
    )
    events = "\n".join(f"  e{n}: {{kind: command, meaning: One.}}" for n in range(EVENTS))
    everywhere = "[" + ", ".join(f"S{n}" for n in range(STATES)) + "]"
    transitions = "\n".join(
        f"  - {{from: every, on: e{n}, to: S{n}, guard: x > {threshold + turn} or y < {turn}.5}}"
        for n in range(EVENTS)
        for turn in range(REPEATED)
    )
    fields = "\n".join(
        f'  {name}: {{dtype: float32, unit: "1", range: [0, 99], default: 0, nan: unknown, '
        "infinity: allowed, meaning: One.}"
        for name in "xy"
    )
    path = folder / "machine.yaml"
    folder.mkdir()
    path.write_text(
        "schema: kasmina/lifecycle@1\nname: machine\nversion: 1\nmeaning: Large.\ninitial: S0\n"
        f"states:\n{states}\ngroups:\n  every: {everywhere}\nevents:\n{events}\n"
        f"context:\n{fields}\ntransitions:\n{transitions}\n"
    )
    return path


def test_ten_thousand_edges(tmp_path: Path) -> None:
    """Every guard of 10,000 edges changes; the same question is asked once."""
    old = read_spec(machine(tmp_path / "old", 1.0))
    new = read_spec(machine(tmp_path / "new", 1.5))
    assert len(old.edges) == STATES * EVENTS * REPEATED == 10_000
    begin = time.process_time()
    comparison = compare(old, new)
    assert time.process_time() - begin < 20
    assert [c.rule for c in comparison.changes] == ["guard_stronger"] * 10_000

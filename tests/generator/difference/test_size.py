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


ORDERED = """\
schema: kasmina/lifecycle@1
name: ordered
version: 1
meaning: Many ways out.
initial: A
states:
  A: {{code: 0, max_epochs: unbounded, meaning: One.}}
  B: {{code: 1, terminal: true, meaning: Two.}}
events:
{events}
context:
  n: {{dtype: int32, unit: one, range: [0, 99], default: 0, meaning: Which way.}}
transitions:
{transitions}
"""


def ordered(folder: Path, priorities: range) -> Path:
    """Write a state with as many ways out that exclude each other as there are priorities."""
    count = range(len(priorities))
    lines = [
        f"  e{n}: {{kind: automatic, priority: {priorities[n]}, meaning: One.}}" for n in count
    ]
    edges = [f"  - {{from: A, on: e{n}, to: B, guard: n == {n}}}" for n in count]
    path = folder / f"ordered_{priorities[0]}.yaml"
    path.write_text(ORDERED.format(events="\n".join(lines), transitions="\n".join(edges)))
    return path


def test_not_every_pair_of_edges_is_asked(tmp_path: Path) -> None:
    """So many edges tried backwards are more pairs than are asked, and that is said."""

    def told(count: int) -> list[tuple[str, str]]:
        there = read_spec(ordered(tmp_path, range(count)))
        back = read_spec(ordered(tmp_path, range(count, 0, -1)))
        found = compare(there, back).changes
        return [(c.rule, c.proof) for c in found if c.rule.startswith("edge_order")]

    assert told(20) == [("edge_order_idle", "they never pass together, by proof")]
    assert told(21) == [("edge_order", "not proved: more than 200 pairs")]

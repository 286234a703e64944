"""Where enumeration ends: what is said is still true, and what is not known is said."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kasmina_generator.model import Spec
from kasmina_generator.prove import Proof, prove, regions, segment, smt
from tests.generator.prove.machines import proved, said
from tests.generator.specs import read, write

FIELD = 'unit: "1", range: [-1.0, 1.0], default: 0.0, nan: 0.0, infinity: refuse, meaning: X.'


def many(formula: str, *, edges: int = 5, command: int | None = None) -> str:
    """Return a state with `edges` edges, each of which reads three fields of its own."""
    ends = "".join(
        f"  B{i}: {{code: {2 + i}, terminal: true, meaning: B.}}\n" for i in range(edges)
    )
    kinds = ["command" if i == command else "automatic" for i in range(edges)]
    events = "".join(
        f"  e{i}: {{kind: {kind}, priority: {10 + i}, meaning: E.}}\n"
        for i, kind in enumerate(kinds)
    )
    fields = "".join(f"  x{i}: {{dtype: float32, {FIELD}}}\n" for i in range(3 * edges))
    lines = "".join(
        f"  - {{from: A, on: e{i}, to: B{i}, guard: {' and '.join(f'x{3 * i + j} > 0.0' for j in range(3))}}}\n"
        for i in range(edges)
    )
    return (
        "schema: kasmina/lifecycle@1\nname: many\nversion: 1\nmeaning: Many fields.\ninitial: A\n"
        "states:\n  A: {code: 0, max_epochs: 3, meaning: A.}\n"
        "  LATE: {code: 1, terminal: true, meaning: L.}\n" + ends + "events:\n" + events +
        "  late: {kind: automatic, priority: 50, meaning: L.}\n"
        "context:\n" + fields + "transitions:\n" + lines +
        "  - {from: A, on: late, to: LATE, guard: timed_out}\n"
        f'properties:\n  - {{name: wish, ctl: "{formula}"}}\n'
    )  # fmt: skip


FALSE = [
    "AG !(enabled(e0) & enabled(e1) & enabled(e2))",
    "AG(enabled(e1) -> enabled(e2) | !enabled(e3))",
    "AG(A -> EX B2)",
    "AG(enabled(e0) & enabled(e1) -> AX !B0)",
    "AG(A -> EX (B0 | B1 | B2) | AX A)",
]
TRUE = [
    "AG(enabled(e0) & enabled(e1) & A -> AX B0)",
    "AG(A & !enabled(e0) & !enabled(e1) & enabled(e2) -> EX B2)",
    "AG EF (B0 | LATE | terminal)",
]


@pytest.mark.parametrize("formula", FALSE)
def test_a_false_formula_over_too_many_combinations(tmp_path: Path, formula: str) -> None:
    """32,768 combinations: Z3 lists those that the formula tells apart, and one refutes it."""
    spec = read(tmp_path, many(formula))
    assert regions.MOST_COMBINATIONS < 2**15
    assert "property 'wish' does not hold" in said(prove(spec))


@pytest.mark.parametrize("formula", TRUE)
def test_a_true_formula_over_too_many_combinations(tmp_path: Path, formula: str) -> None:
    """What holds is proved there as well."""
    proof = prove(read(tmp_path, many(formula)))
    assert not proof.findings
    assert not proof.unproved
    assert "ctl: wish (product)" in proof.proved


def test_a_command_beside_automatic_edges(tmp_path: Path) -> None:
    """Two moves of one region are told apart from two regions of one move each."""
    proof = prove(read(tmp_path, many("AG(enabled(e0) -> AX !B4)", command=4)))
    text = said(proof)
    assert "witness: A@0 --e4 [" in text
    assert "x14=" in text


@pytest.mark.parametrize("formula", [*FALSE, *TRUE])
def test_the_verdict_does_not_depend_on_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, formula: str
) -> None:
    """Listed by Z3 or enumerated: the same formulas hold."""
    spec = read(tmp_path, many(formula, edges=4))
    assert regions.MOST_COMBINATIONS >= 2**12
    enumerated = prove(spec)
    monkeypatch.setattr(regions, "MOST_COMBINATIONS", 8)
    asked = prove(spec)
    assert {item.what for item in enumerated.findings} == {item.what for item in asked.findings}
    assert not asked.unproved


@pytest.mark.parametrize("formula", [*FALSE, *TRUE])
def test_too_many_combinations_without_z3(tmp_path: Path, formula: str) -> None:
    """No false formula is proved, no true one refuted, and what is open is said."""
    proof = prove(read(tmp_path, many(formula)), use_z3=False)
    claimed = "ctl: wish (product)" in proof.proved
    open_ = any("formula 'wish'" in line for line in proof.unproved)
    assert claimed + open_ + bool(proof.findings) == 1
    assert not (claimed if formula in FALSE else proof.findings)


def test_views_that_z3_cannot_list_leave_a_formula_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More kinds of regions than may be listed: unproved, and not sound by omission."""
    monkeypatch.setattr(smt, "MOST_VIEWS", 3)
    proof = prove(read(tmp_path, many(TRUE[0])))
    assert not proof.findings
    assert any("formula 'wish': too many combinations" in line for line in proof.unproved)


# --- limits ---------------------------------------------------------------------------------------


def gate(count: int, guard: str) -> str:
    """Return a machine that opens where a guard over fields and limits holds."""
    fields = "".join(
        f'  x{i}: {{dtype: float32, unit: "1", range: [0.2, 0.8], default: 0.5, nan: 0.5, '
        "infinity: refuse, meaning: X.}\n"
        for i in range(count)
    )
    limits = "".join(
        f"  t{i}: {{dtype: float32, default: 0.0, range: [0.0, 5.0], meaning: T.}}\n"
        for i in range(count)
    )
    return (
        "schema: kasmina/lifecycle@1\nname: gate\nversion: 1\nmeaning: A gate.\ninitial: A\n"
        "states:\n  A: {code: 0, max_epochs: 3, meaning: A.}\n"
        "  OPEN: {code: 1, terminal: true, meaning: O.}\n"
        "  SHUT: {code: 2, terminal: true, meaning: S.}\n"
        "events:\n  win: {kind: automatic, priority: 10, meaning: W.}\n"
        "  late: {kind: automatic, priority: 20, meaning: L.}\n"
        "context:\n" + fields + "limits:\n" + limits + "transitions:\n"
        f'  - {{from: A, on: win, to: OPEN, guard: "{guard}"}}\n'
        "  - {from: A, on: late, to: SHUT, guard: timed_out}\n"
        "properties:\n  - {name: can open, reachable: OPEN}\n"
    )


def reachable(proof: Proof) -> list[str]:
    """Return what was proved of the property."""
    return [line for line in proof.proved if line.startswith("reachable")]


@pytest.mark.parametrize("count", [1, 6, 7, 9, 12])
def test_one_of_many_limits_closes_the_way(tmp_path: Path, count: int) -> None:
    """Never "under all limits" where one limit at its worst is enough, however many there are."""
    guard = " and ".join(f"x{i} >= t{i}" for i in range(count))
    proof = prove(read(tmp_path, gate(count, guard)))
    assert reachable(proof) == ["reachable: can open under some limits (product)"]
    assert any("no way leads from A to OPEN" in note for note in proof.notes)
    assert not proof.unproved


@pytest.mark.parametrize("guard", ["x0 + x0 >= t0", "x0 * x0 >= t0 * t0", "x0 - t0 > 0.0"])
def test_limits_in_guards_that_compute(tmp_path: Path, guard: str) -> None:
    """A limit at the end of its range closes the way, and is shown."""
    proof = prove(read(tmp_path, gate(1, guard)))
    assert reachable(proof) == ["reachable: can open under some limits (product)"]
    assert "can open: with limits [t0=5] no way leads from A to OPEN" in proof.notes
    assert not proof.unproved


def test_limits_that_close_the_way_inside_their_range(tmp_path: Path) -> None:
    """Nobody knows what the worst limits leave: said so, and no more."""
    proof = prove(read(tmp_path, gate(1, "x0 + x0 >= t0 * (5.0 - t0)")))
    assert reachable(proof) == ["reachable: can open under some limits (product)"]
    assert any("whether OPEN is reached under all limits is not known" in n for n in proof.unproved)


def test_a_bool_limit_is_fixed(tmp_path: Path) -> None:
    """A switch that closes the way, beside a guard that computes."""
    text = gate(1, "x0 * x0 >= 0.0 and allowed and x0 * t0 >= 0.0")
    switch = "  allowed: {dtype: bool, default: true, meaning: A switch.}\n"
    proof = prove(read(tmp_path, text.replace("limits:\n", "limits:\n" + switch)))
    assert reachable(proof) == ["reachable: can open under some limits (product)"]
    assert any("allowed=false" in note for note in proof.notes)
    assert not proof.unproved


@pytest.mark.parametrize("guard", ["x0 + x0 >= 1.0", "x0 >= 0.3", "x0 >= t0 or x0 < t0"])
def test_limits_that_close_nothing(tmp_path: Path, guard: str) -> None:
    """Under all limits, where it is so."""
    proof = prove(read(tmp_path, gate(1, guard)))
    assert reachable(proof) == ["reachable: can open under all limits (product)"]


# --- without Z3 -----------------------------------------------------------------------------------

TIE = "  - {from: A, on: go, to: END, guard: x / y >= 1.0}\n"
COMPUTING = ("guard: x >= edge", "guard: x / y <= 1.0")


def tied(folder: Path, *, use_z3: bool) -> Proof:
    """Return the proof of two edges that both pass where x equals y."""
    before = "  - {from: A, on: late, to: END, guard: timed_out}\n"
    return proved(folder, COMPUTING, (before, TIE + before), use_z3=use_z3)


def test_a_tried_row_refutes_for_certain(tmp_path: Path) -> None:
    """Without Z3 the row in which both edges pass is a fault, and not merely a doubt."""
    text = said(tied(tmp_path, use_z3=False))
    assert "can both pass with priority 20" in text
    assert "--tick [x=0.5, y=0.5]--> B@0 or END@0" in text


def test_a_way_that_is_only_assumed_proves_nothing(tmp_path: Path) -> None:
    """What rests on a combination that may not exist is no way to a state."""
    guard = "x / y >= edge and x / y < edge"
    lines = 'properties:\n  - {name: wish, ctl: "EF B"}\n  - {name: way, reachable: B}\n'
    proof = proved(tmp_path, ("guard: x >= edge", f"guard: {guard}"), more=lines, use_z3=False)
    assert not proof.findings
    claims = "\n".join(proof.proved)
    for claim in ("unreachable", "edges", "reachable", "ctl"):
        assert f"{claim}: " not in claims, claim
    open_ = "\n".join(proof.unproved)
    assert "formula 'wish': it asks for a path" in open_
    assert "state 'B' is never reached" in open_


SPECS = ["x / y >= edge", "x * y < edge", "x - y >= 0.5 and x + y < 9.0", "x / y >= x * y"]


@pytest.mark.parametrize("guard", SPECS)
@pytest.mark.parametrize(
    "wish", ["AG(B -> AF END)", "EF B", "AG !B", "AG(A & timed_out -> AX !A)", "AG(enabled(go))"]
)
def test_without_z3_nothing_is_said_that_z3_denies(tmp_path: Path, guard: str, wish: str) -> None:
    """Each finding and each proof without Z3 is one with Z3 as well."""
    more = f'properties:\n  - {{name: wish, ctl: "{wish}"}}\n'
    change = ("guard: x >= edge", f"guard: {guard}")
    known = proved(tmp_path, change, more=more)
    loose = proved(tmp_path, change, more=more, use_z3=False)
    assert not known.unproved
    findings = {(item.place, item.check) for item in known.findings}
    assert {(item.place, item.check) for item in loose.findings} <= findings
    assert set(loose.proved) <= set(known.proved)


# --- guards that compute with epochs --------------------------------------------------------------

LONG = """\
schema: kasmina/lifecycle@1
name: long
version: 1
meaning: Epochs in arithmetic.
initial: A
states:
  A: {code: 0, max_epochs: unbounded, meaning: A.}
  B: {code: 1, terminal: true, meaning: B.}
events:
  go: {kind: automatic, priority: 10, meaning: W.}
  hop: {kind: automatic, priority: 10, meaning: W.}
context:
  n: {dtype: int32, unit: n, range: [0, 1000], default: 0, meaning: N.}
  y: {dtype: float32, unit: "1", range: [-10.0, 10.0], default: 0.0, nan: unknown,
      infinity: unknown, meaning: X.}
limits:
  big: {dtype: int32, default: 30000, range: [1, 100000], meaning: T.}
transitions:
  - {from: A, on: go, to: B, guard: "epochs * n >= big"}
  - {from: B, on: hop, to: A, guard: "y * y - y >= 3.0"}
"""
LONG = LONG.replace("B: {code: 1, terminal: true", "B: {code: 1, max_epochs: unbounded")


def test_epochs_in_arithmetic_are_told_apart_up_to_a_bound(tmp_path: Path) -> None:
    """32,768 different guards end in one that stands for all of the later ones, and it is said."""
    proof = prove(read(tmp_path, LONG))
    assert not proof.findings
    assert proof.size.places < 2 * segment.MOST_COMPUTED
    assert any("from 256 on, all epochs are taken together" in line for line in proof.unproved)


def test_memory_stays_small(tmp_path: Path) -> None:
    """The whole command runs in 1.5 GB of address space."""
    file = write(tmp_path, LONG)
    bound = 1500 << 20
    done = subprocess.run(
        [sys.executable, "-m", "kasmina", "spec", "check", str(file)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (bound, bound)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "from 256 on, all epochs are taken together" in done.stdout


def test_what_a_later_epoch_forbids_is_found_before_the_bound(tmp_path: Path) -> None:
    """A tie at epoch 200 is a fault; one at epoch 300 is left open."""
    line = '  - {from: A, on: hop, to: A, guard: "epochs * n == %d and n == 1 and big > 0"}\n'
    for epochs, certain in ((200, True), (300, False)):
        text = LONG.replace("  - {from: B", line % epochs + "  - {from: B")
        text = text.replace(
            "big: {dtype: int32, default: 30000, range: [1,",
            "big: {dtype: int32, default: 9, range: [1,",
        )
        spec: Spec = read(tmp_path, text)
        proof = prove(spec)
        assert ("can both pass" in said(proof)) is certain
        assert any("can both pass" in line for line in proof.unproved) is not certain

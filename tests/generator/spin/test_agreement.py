"""The real SPIN and the prover give the same verdicts, on sound machines and on broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.prove import prove
from kasmina_generator.spin import Report, ask
from kasmina_generator.spin.report import agrees
from tests.generator.specs import MACHINES, read, spoil

V1 = kasmina_spec.LIFECYCLE_V1.read_text(encoding="utf-8").replace("state: state_v1.yaml\n", "")


def verdicts(path: Path, *, entities: int = 2) -> dict[str, bool]:
    """Return SPIN's verdicts by property; the prover must give the same, or leave it open."""
    spec = read_spec(path)
    proof = prove(spec)
    report = ask(spec, entities=entities, trails=False)
    assert {a.declared.name for a in report.answers if agrees(a, proof) is False} == set()
    assert len(report.answers) + len(report.unsaid) == len(spec.properties)
    return {answer.declared.name: answer.holds for answer in report.answers}


def test_the_default_lifecycle() -> None:
    """All seven properties hold for any of two seeds that share both capacities."""
    assert list(verdicts(kasmina_spec.LIFECYCLE).values()) == [True] * 7


@pytest.mark.parametrize(("name", "count"), [("traffic_light", 3), ("orders", 4), ("berths", 1)])
def test_foreign_machines(name: str, count: int) -> None:
    """SPIN knows of no seeds either; orders compute in their guards, which Z3 has settled."""
    assert list(verdicts(MACHINES / f"{name}.yaml").values()) == [True] * count


@pytest.mark.long
def test_a_large_foreign_machine() -> None:
    """Thirty states; two of twelve properties are beyond linear time without next."""
    assert list(verdicts(MACHINES / "mission.yaml").values()) == [True] * 10


@pytest.mark.long
def test_three_entities() -> None:
    """A third may stand between two others."""
    assert all(verdicts(kasmina_spec.LIFECYCLE_V1, entities=3).values())


FORMULAS = {
    "AG(GERMINATED -> AF (GRAFTING | terminal))": True,
    "AG(GERMINATED -> AF GRAFTING)": False,  # cull, cancel
    "AG(GRAFTING -> A[GRAFTING U terminal])": True,
    "AG(GRAFTING -> A[GRAFTING U FOSSILIZED])": False,
    "AG(enabled(fossilize) -> epochs >= 1)": True,
    "AG(GRAFTING & enabled(fossilize) -> AF FOSSILIZED)": False,  # a cancel comes first
    "AG(GERMINATED & epochs >= 2 & enabled(graft) -> AF terminal)": True,
    "AG(timed_out -> !DORMANT)": True,
    "AG(epochs <= 23 | DORMANT | terminal)": False,
    "AG(epochs <= 24 | DORMANT | terminal)": True,
    "AG(FOSSILIZED -> AG FOSSILIZED)": True,
    "AG(CULLED -> AG CULLED)": False,  # recycled
    "!E[!GERMINATED U FOSSILIZED]": True,
    "!E[!CULLED U FOSSILIZED]": False,
    "EF (FOSSILIZED & epochs == 0)": True,
    "EF (DORMANT & enabled(graft))": False,
    "AF !DORMANT": False,  # nobody need ever ask
    "AG !FOSSILIZED | AG !CULLED": None,
    "AG(DORMANT -> EF FOSSILIZED)": None,
    "AG(GERMINATED -> AX !DORMANT)": None,
}


def test_formulas_on_the_earlier_lifecycle(tmp_path: Path) -> None:
    """Twenty formulas: those that can be asked are answered as the prover answers them."""
    lines = "".join(f'  - {{name: "{f}", ctl: "{f}"}}\n' for f in FORMULAS)
    spec = tmp_path / "v1.yaml"
    spec.write_text(V1 + lines, encoding="utf-8")
    found = verdicts(spec)
    assert {f: found.get(f) for f in FORMULAS} == FORMULAS


def broken(folder: Path, old: str, new: str) -> Report:
    """Return SPIN's report on the earlier lifecycle with a fault in it."""
    spec = read(folder, spoil(V1, old, new))
    report = ask(spec, trails=False)
    proof = prove(spec)
    assert all(agrees(answer, proof) for answer in report.answers)
    return report


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (  # a short cut round the graft
            "  - {from: GERMINATED, on: cull, to: CULLED, guard: timed_out}",
            "  - {from: GERMINATED, on: cull, to: FOSSILIZED, guard: timed_out}",
            "grafted before kept",
        ),
        (  # cancel needs a value in one state
            "  - {from: non_terminal, on: cancel, to: CULLED}",
            (
                "  - {from: [DORMANT, GERMINATED], on: cancel, to: CULLED}\n"
                "  - {from: GRAFTING, on: cancel, to: CULLED, guard: alpha > 0.0}"
            ),
            "always cancellable",
        ),
        (  # what is kept is given up
            "  ended: [CULLED]",
            "  ended: [CULLED, FOSSILIZED]",
            "kept for good",
        ),
        (  # a goal behind a guard that no value meets in time
            "guard: alpha >= 1.0 and improvement > min_improvement",
            "guard: alpha >= 1.0 and epochs > 24",
            "can succeed",
        ),
        (  # the way back to the start instead of an end
            "  - {from: GRAFTING, on: cull, to: CULLED, guard: timed_out}",
            "  - {from: GRAFTING, on: cull, to: GERMINATED, guard: timed_out}",
            "a germinated seed ends",
        ),
    ],
)
def test_a_planted_fault_is_found_by_both(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    """One property breaks, and no other."""
    report = broken(tmp_path, old, new)
    assert [answer.declared.name for answer in report.answers if not answer.holds] == [expected]


def test_room_that_the_others_give_up_is_room(tmp_path: Path) -> None:
    """To the prover a capacity may refuse for ever; SPIN sees the other ship leave."""
    text = (MACHINES / "berths.yaml").read_text(encoding="utf-8")
    spec = read(tmp_path, f'{text}  - {{name: moors, ctl: "AG(WAITING -> AF UNLOADING)"}}\n')
    answer = ask(spec, only={"moors"}, trails=False).answers[0]
    assert answer.holds
    assert agrees(answer, prove(spec)) is False

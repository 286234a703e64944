"""The checker itself is tried: every planted fault is found, and nothing is said of what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.verify import verify
from tests.generator.prove.mutation import OPERATORS, gapless, judge, mutants
from tests.generator.specs import MACHINES

FILES = [
    kasmina_spec.LIFECYCLE,
    kasmina_spec.LIFECYCLE_V1,
    MACHINES / "traffic_light.yaml",
    MACHINES / "orders.yaml",
    pytest.param(MACHINES / "mission.yaml", marks=pytest.mark.long),
]
EVERY = [
    kasmina_spec.LIFECYCLE,
    kasmina_spec.LIFECYCLE_V1,
    *(MACHINES / f"{name}.yaml" for name in ("traffic_light", "orders", "mission")),
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_mutant_is_caught_or_proved_equal(file: Path) -> None:
    """Each operator's check finds each of its mutants, with a line; survivors take equal steps."""
    spec = read_spec(file)
    judged = [judge(spec, mutant) for mutant in mutants(spec)]
    missed = [f"{each.mutant.operator}: {each.mutant.what}" for each in judged if each.missed]
    assert not missed, "\n".join(missed)
    assert len(judged) > 60
    for each in judged:
        if each.caught:
            assert each.caught.place.line > 1
            assert each.caught.what


@pytest.mark.parametrize("file", EVERY, ids=lambda file: file.stem)
def test_no_false_alarm(file: Path) -> None:
    """Nothing is said of a machine that is right, and nothing is left unproved."""
    verdict = verify(read_spec(file))
    assert not verdict.findings
    assert not verdict.proof.unproved


@pytest.mark.parametrize("file", EVERY[:4], ids=lambda file: file.stem)
def test_no_false_alarm_at_the_last_ulp(file: Path) -> None:
    """Guards that meet without overlapping are deterministic, whatever the limits."""
    spec = read_spec(file)
    for what, _, changed in gapless(spec):
        checks = {finding.check for finding in verify(changed).findings}
        assert "deterministic" not in checks, what


def test_every_operator_plants_something() -> None:
    """No operator is idle on the default spec."""
    spec = read_spec(kasmina_spec.LIFECYCLE)
    planted = {mutant.operator for mutant in mutants(spec)}
    assert planted == set(OPERATORS)

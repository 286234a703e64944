"""Kernels files: what is read, exactly what is refused, and what of them reaches the generated text."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.build import Target, build, planned_changes, user_target
from kasmina_generator.kernels.specialisation import specialisations
from tests.generator.kernels.fans import FANS, kernels, said
from tests.generator.specs import DOOR, changes, faults, spoil
from tests.helpers import run_cli


def test_what_is_read(tmp_path: Path) -> None:
    """States by their codes; kinds with every choice of their options."""
    found = kernels(tmp_path)
    assert (found.mixing.codes, found.mixing.mask) == ((0, 1, 2), 0b111)
    assert (found.joint.codes, found.joint.mask) == ((1,), 0b10)
    assert found.dtypes == ("float32", "float16")
    assert [variant.name for variant in found.variants()] == ["blade_relu", "blade_tanh", "vent"]
    blade, _, vent = found.variants()
    assert blade.parameters("bias") == (
        "turn_weight", "turn_bias", "lean_weight", "out_weight", "out_bias",
    )  # fmt: skip
    assert blade.parameters("no bias")[-1] == "out_weight"
    assert vent.parameters("bias") == ("width",)


@pytest.mark.parametrize(("old", "new", "messages"), list(changes("bad_kernels.txt")))
def test_a_wrong_kernels_file_is_refused(
    tmp_path: Path, old: str, new: str, messages: list[str]
) -> None:
    """One change, and every line that is said about it; formulas with a caret."""
    assert said(tmp_path, spoil(FANS, old, new)) == messages


def test_a_code_that_no_bit_can_stand_for_is_refused(tmp_path: Path) -> None:
    """Kernels ask for a state by its bit in an int64."""
    spec = spoil(DOOR, "OPEN: {code: 1", "OPEN: {code: 63") + "kernels: fans.yaml\n"
    assert said(tmp_path, FANS, spec) == [
        "fans.yaml:6:37: states 'mixing': values: state 'OPEN' has code 63; kernels know 0 to 62",
        "fans.yaml:7:36: states 'joint': values: state 'OPEN' has code 63; kernels know 0 to 62",
    ]


def test_a_spec_without_attributes_cannot_name_kernels(tmp_path: Path) -> None:
    """There is nothing that tells which states mix."""
    (tmp_path / "fans.yaml").write_text(FANS)
    bare = DOOR.replace("lamp: dark, ", "").replace("lamp: lit, ", "")
    start, end = bare.index("attributes:"), bare.index("states:")
    told = faults(tmp_path, f"{bare[:start]}{bare[end:]}kernels: fans.yaml\n")
    assert told == [
        "fans.yaml:6:23: states 'mixing': attribute: unknown 'lamp'",
        "fans.yaml:7:22: states 'joint': attribute: unknown 'lamp'",
    ]


def test_each_specialisation_has_a_name_and_a_key_of_its_own(tmp_path: Path) -> None:
    """Files are shared by what only the constants differ in."""
    found = list(specialisations(kernels(tmp_path)))
    assert len(found) == 3 * 2 * 2 * 3  # texts, modes, dtypes; forward twice for telemetry
    assert len({kernel.label for kernel in found}) == len({k.key for k in found}) == len(found)
    assert {kernel.file for kernel in found} == {
        f"kernels/inline_{text}_{way}.py"
        for text in ("blade_relu", "blade_tanh", "vent")
        for way in ("forward", "backward")
    }
    assert found[1].label == "inline blade_relu forward replace float32 telemetry"
    assert found[0].template == "kernels/inline_forward.py.jinja"


def test_the_key_knows_what_the_label_does_not(tmp_path: Path) -> None:
    """Another formula or another state that mixes is another kernel under the same label."""
    one = next(specialisations(kernels(tmp_path)))
    for old, new in [("f(turn) * lean", "f(turn) + lean"), ("[lit, dark]", "[lit]")]:
        other = next(specialisations(kernels(tmp_path, spoil(FANS, old, new))))
        assert other.label == one.label
        assert other.key != one.key


def test_the_digest_covers_all_but_the_prose(tmp_path: Path) -> None:
    """The codes of the states that mix included."""
    digest = kernels(tmp_path).digest
    assert kernels(tmp_path, spoil(FANS, "It turns.", "It moves.")).digest == digest
    assert kernels(tmp_path, spoil(FANS, "f(turn) * lean", "(f(turn) * lean)")).digest == digest
    for old, new in [("values: lit,", "values: dark,"), ("lean: no bias", "lean: bias"), ("x * width", "width * x")]:  # fmt: skip
        assert kernels(tmp_path, spoil(FANS, old, new)).digest != digest
    spec = spoil(DOOR, "OPEN: {code: 1, lamp: lit", "OPEN: {code: 1, lamp: dark")
    assert kernels(tmp_path, FANS, f"{spec}kernels: fans.yaml\n").digest != digest


@pytest.fixture
def mine(tmp_path: Path) -> Target:
    """A copy of the lifecycle that Kasmina ships, built."""
    for source in kasmina_spec.FOLDER.glob("*.yaml"):
        shutil.copy(source, tmp_path)
    target = user_target(tmp_path / "lifecycle.yaml", tmp_path / "built")
    build([target])
    return target


def test_a_state_whose_plane_changes_changes_the_kernels(mine: Target) -> None:
    """Edited and not built it is drift, which `--check` finds; built, the bits are others."""
    kernel = mine.directory / "kernels" / "inline_mlp_relu_backward.py"
    shared = mine.directory / "kernels" / "tiling.py"
    assert "MIXING = tl.constexpr(0x3F8)" in shared.read_text()
    assert "JOINT = tl.constexpr(0xC8)" in kernel.read_text()
    old = "STABILIZATION:\n    {code: 4, plane: full, trains: host"
    text = mine.spec.read_text()
    mine.spec.write_text(spoil(text, old, old.replace("full", "shadow").replace("host", "joint")))
    done = run_cli("spec", "build", str(mine.spec), "--out", str(mine.directory), "--check")
    assert done.returncode == 1
    assert f"{kernel}: differs from what the spec and the templates give now" in done.stdout
    assert "-MIXING = tl.constexpr(0x3F8)" in done.stdout
    assert "+MIXING = tl.constexpr(0x3E8)" in done.stdout
    build([mine])
    assert "MIXING = tl.constexpr(0x3E8)" in shared.read_text()
    assert "JOINT = tl.constexpr(0xD8)" in kernel.read_text()
    assert planned_changes([mine]) == []


def test_a_kind_that_is_added_gets_its_kernels_and_one_that_goes_loses_them(mine: Target) -> None:
    """Orphans are told and removed."""
    path = mine.spec.parent / "kernels.yaml"
    text = path.read_text()
    path.write_text(text.replace("  low_rank:\n", "  rank_of_one:\n"))
    kinds = {change.path.name: change.kind for change in planned_changes([mine])}
    assert kinds["inline_rank_of_one_forward.py"] == "missing"
    assert kinds["inline_low_rank_forward.py"] == "orphan"
    build([mine])
    assert not (mine.directory / "kernels" / "inline_low_rank_backward.py").exists()


def test_a_line_of_a_kernel_leads_to_its_kind(mine: Target) -> None:
    """The formula's line comes from the kernels file, all others from the template."""
    kernel = mine.directory / "kernels" / "inline_gated_forward.py"
    lines = kernel.read_text().splitlines()
    number = lines.index("    return _silu(v_gate) * v_up") + 1
    done = run_cli("spec", "where", f"{kernel}:{number}")
    assert done.returncode == 0
    spec = read_spec(mine.spec)
    assert spec.kernels is not None
    (gated,) = (kind for kind in spec.kernels.kinds if kind.name == "gated")
    assert str(gated.place) in done.stdout

"""One emitter at a time is corrupted; the comparison of the three interpreters must notice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kasmina_generator.emit import kernel_view, view, word_view
from tests.generated.packages import SPECS, Package, built, imported
from tests.generated.shapes import SHAPES
from tests.generated.test_three_ways import asking, rooms
from tests.generated.ways import (
    boundary_batch,
    mismatches,
    with_capacities,
    without_capacities,
)

GATE = """\
schema: kasmina/lifecycle@1
name: gate
version: 1
meaning: Opens and closes by one number, or when it has waited.
initial: SHUT
states:
  SHUT: {code: 0, max_epochs: unbounded, meaning: Nothing passes.}
  OPEN: {code: 1, min_epochs: 3, max_epochs: unbounded, meaning: All may pass.}
events:
  lift: {kind: automatic, meaning: Up.}
  drop: {kind: automatic, meaning: Down.}
context:
  level: {dtype: float32, unit: m, range: [-.inf, .inf], default: 0.0, nan: unknown,
          infinity: allowed, meaning: Of the water.}
limits:
  mark: {dtype: float32, default: 0.7, range: [0.0, 1.0], meaning: High water.}
  patience: {dtype: int32, default: 5, range: [1, 9], meaning: How long it stays shut at most.}
transitions:
  - {from: SHUT, on: lift, to: OPEN, guard: level >= mark or epochs >= patience}
  - {from: OPEN, on: drop, to: SHUT, guard: level <= mark}
"""

# Where each interpreter takes its guards from, how it writes the mark and the level, and a negation.
EMITTERS = {
    "python": (view, "python_return", "limits.mark", "context.level", "not "),
    "torch": (word_view, "torch_condition", "limits.mark", "seen.level", "~"),
    "triton": (kernel_view, "triton_condition", "limit_mark", "field_level", "~"),
}
WIDER = {"python": "", "torch": ".double()", "triton": ".to(tl.float64)"}
MARK = {"python": "0.7", "torch": "0.7", "triton": "tl.full((), 0.7, tl.float64)"}  # in double


def corruptions(emitter: str) -> dict[str, Callable[[str], str]]:
    """Return what may go wrong in the text of a guard."""
    _, _, mark, level, negation = EMITTERS[emitter]
    wide = f"{level}{WIDER[emitter]}"
    return {
        "at least becomes above": lambda text: text.replace(
            f"{level} >= {mark}", f"{level} > {mark}"
        ),
        "at most becomes below": lambda text: text.replace(
            f"{level} <= {mark}", f"{level} < {mark}"
        ),
        "a limit in double": lambda text: text.replace(
            f"{level} >= {mark}", f"{wide} >= {MARK[emitter]}"
        ),
        "NaN passes": lambda text: text.replace(
            f"{level} <= {mark}", f"({negation}({level} > {mark}))"
        ),
        "the clock is off by one": lambda text: re.sub(
            r"\b(ticks|epochs) >= l", r"\1 + 1 >= l", text
        ),
        "the mark is another limit": lambda text: text.replace(
            mark, mark.replace("mark", "patience")
        ),
    }


@pytest.mark.parametrize("what", corruptions("python"))
@pytest.mark.parametrize("emitter", EMITTERS)
def test_a_corrupt_guard_is_noticed(
    emitter: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emitter's own function is corrupted; nothing else of the package changes."""
    module, name = EMITTERS[emitter][:2]
    sound = getattr(module, name)
    corrupt = corruptions(emitter)[what]
    changed = []

    def corrupted(guard: object) -> object:
        """Return what the sound emitter returns, changed; Python's is a list of lines."""
        text = sound(guard)
        wrong = [corrupt(line) for line in text] if isinstance(text, list) else corrupt(text)
        changed.append(wrong != text)
        return wrong

    monkeypatch.setattr(module, name, corrupted)
    path = tmp_path / "gate.yaml"
    path.write_text(GATE)
    package = built(path, tmp_path / "gate")
    assert any(changed)
    assert found(package)


def found(package: Package) -> list[str]:
    """Return the mismatches at a tick."""
    batch = boundary_batch(package, {}, 500)
    return mismatches(package, batch, without_capacities(package, batch, {}, tick=True))


def test_the_sound_gate_has_no_mismatch(tmp_path: Path) -> None:
    """What the tests above corrupt is in order."""
    path = tmp_path / "gate.yaml"
    path.write_text(GATE)
    assert not found(built(path, tmp_path / "gate"))


# What is no guard: the order of edges, the tables, the clock's way into them, the normalisation.
EDITS = {
    "python tries the last edge first": (
        "wide", "testing/sequential.py", "in _LEAVING[row.state]:", "in _LEAVING[row.state][::-1]:",
    ),
    "torch tries the last edge first": ("wide", "vector.py", "(code == 0)", "(code == 0) & (packed < 0)"),
    "triton tries the last edge first": (
        "wide", "kernels/step.py", "(code == 0)", "(code == 0) & (packed < 0)",
    ),
    "the table tries the last edge first": ("gates", "tables.py", "in reversed(list(", "in list(list("),
    "the table's clock is off by one": ("gate", "tables.py", "_EPOCHS >= 3", "_EPOCHS > 3"),
    "torch looks up the next epoch": ("gate", "vector.py", "epochs.clamp(0,", "(epochs + 1).clamp(0,"),
    "triton sees the epoch before": (
        "gate", "kernels/step.py", "stash_at + (TILE + CHUNK) + place, mask=here, other=0)",
        "stash_at + (TILE + CHUNK) + place, mask=here, other=0) - 1",
    ),
    "python counts no epochs": ("gate", "testing/sequential.py", "row.epochs = 0", "row.epochs = 1"),
    "torch counts too many epochs": ("gate", "vector.py", "(epochs < tables.MOST_EPOCHS)", "True"),
    "triton counts too many epochs": (
        "gate", "kernels/step.py", "tl.where(epochs < 32767, tick, 0)", "tick",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITS)
def test_a_corrupt_step_is_noticed(what: str, tmp_path: Path) -> None:
    """One text in one file of the package is changed after it was emitted."""
    name, file, old, new = EDITS[what]
    texts = {"gate": GATE, "gates": GATES, "wide": SHAPES["wide"]}
    path = tmp_path / f"{name}.yaml"
    path.write_text(texts[name])
    spec = built(path, tmp_path / "package").spec
    edited = tmp_path / "package" / file
    text = edited.read_text()
    assert old in text
    edited.write_text(text.replace(old, new))
    assert found(imported(spec, tmp_path / "package"))


ARBITRATIONS = {
    "python ranks the other way": ("testing/sequential.py", "-value", "value"),
    "torch prefers the higher row": ("vector.py", "(len(asking) - 1, -1, -1", "(0, len(asking), 1"),
    "triton prefers the higher row": ("kernels/capacity.py", "(n - 1 - rows)", "rows"),
    "triton lets one in too few": ("kernels/capacity.py", "(key < last)", "(key <= last)"),
    "triton ranks the other way": (
        "kernels/capacity.py",
        "_ordered(field_price)",
        "-_ordered(field_price)",
    ),
}


@pytest.mark.parametrize("what", ARBITRATIONS)
def test_a_corrupt_arbitration_is_noticed(what: str, tmp_path: Path) -> None:
    """The same, for who finds room."""
    file, old, new = ARBITRATIONS[what]
    spec = built(SPECS["orders"], tmp_path / "package").spec
    edited = tmp_path / "package" / file
    text = edited.read_text()
    assert old in text
    edited.write_text(text.replace(old, new))
    package = imported(spec, tmp_path / "package")
    batch = asking(package, shuffle=False)
    limits = rooms(package, batch)[-1]
    assert mismatches(package, batch, with_capacities(package, batch, limits, tick=True))


# Two ways out that are open at the same time.
GATES = GATE.replace(
    "  - {from: OPEN", "  - {from: SHUT, on: drop, to: SHUT, guard: level >= mark}\n  - {from: OPEN"
)

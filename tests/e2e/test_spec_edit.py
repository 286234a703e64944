"""A user edits the YAML, builds, and the running system behaves by the new spec: no Python touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kasmina.observe.log import Record, read_log
from tests.helpers import run_cli

EPOCHS = 56  # long enough for a seed's whole life on digits


def _grow(folder: Path, edit: Callable[[str], str] | None) -> list[Record]:
    """Copy the default spec, edit it, build it, grow under it; returns the log."""
    spec, package, run = folder / "spec", folder / "package", folder / "run"
    arguments: list[str] = []
    if edit is not None:
        assert run_cli("spec", "init", str(spec)).returncode == 0
        file = spec / "lifecycle.yaml"
        text = file.read_text()
        edited = edit(text)
        assert edited != text
        file.write_text(edited)
        built = run_cli("spec", "build", str(file), "--out", str(package))
        assert built.returncode == 0, built.stdout + built.stderr
        arguments = ["--lifecycle", str(package)]
    grown = run_cli(
        "grow", "--task", "digits", "--epochs", str(EPOCHS), "--out", str(run), *arguments
    )
    assert grown.returncode == 0, grown.stderr
    replayed = run_cli("replay", str(run), *arguments)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    return read_log(run / "events.jsonl")


def _path(records: list[Record]) -> list[str]:
    """The states that the seed went through which was grafted first; the first seed's, if none was."""
    moves = [r for r in records if r.kind == "transition" and r.address]
    grafted = [r for r in moves if r["to"] == "GRAFTING"]
    chosen = (grafted or moves)[0].address
    mine = [r for r in moves if r.address == chosen]
    return [mine[0]["from"], *(move["to"] for move in mine)]


def _replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert text.count(old) == 1, old
        return text.replace(old, new)

    return edit


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The log of a run under the lifecycle as it is built in."""
    return _grow(tmp_path_factory.mktemp("default"), None)


def test_the_default_lifecycle_keeps_a_seed(default: list[Record]) -> None:
    """What the edited runs are compared with."""
    assert _path(default) == [
        "DORMANT",
        "GERMINATED",
        "TRAINING",
        "GRAFTING",
        "STABILIZATION",
        "EVALUATING",
        "FINE_TUNING",
        "FOSSILIZED",
    ]


def test_a_limit_that_was_edited_decides(tmp_path: Path) -> None:
    """With a validation gain that nothing reaches, the seed never grafts."""
    edit = _replaced(
        "{dtype: float32, default: 0.0005, range: [0.0, 1.0]",
        "{dtype: float32, default: 1.0, range: [0.0, 1.0]",
    )
    records = _grow(tmp_path, edit)
    assert _path(records)[:3] == ["DORMANT", "GERMINATED", "TRAINING"]
    assert not any(r.kind == "transition" and r["to"] == "GRAFTING" for r in records)


def test_a_plane_that_was_edited_changes_the_data_path(
    default: list[Record], tmp_path: Path
) -> None:
    """In plane `identity` the graft does not reach the host while it stabilises."""
    edit = _replaced(
        "{code: 4, plane: full, trains: host,", "{code: 4, plane: identity, trains: host,"
    )
    edited = _grow(tmp_path, edit)

    def loss_while_stabilising(records: list[Record]) -> float:
        enters = next(r for r in records if r.kind == "transition" and r["to"] == "STABILIZATION")
        epochs = {r.epoch: float(r["validation_loss"]) for r in records if r.kind == "epoch"}
        return epochs[enters.epoch + 1]

    assert loss_while_stabilising(edited) > 2 * loss_while_stabilising(default)


def test_a_state_and_its_edges_that_were_added_are_lived(tmp_path: Path) -> None:
    """A probation between judgement and fine tuning shows up in the log."""

    def edit(text: str) -> str:
        text = _replaced(
            "groups:\n",
            "  PROBATION:\n"
            "    {code: 11, plane: full, trains: host, blueprint: required, min_epochs: 2,\n"
            "     max_epochs: 5, meaning: Kept on a trial.}\n\n"
            "groups:\n",
        )(text)
        text = _replaced("on: positive, to: FINE_TUNING", "on: positive, to: PROBATION")(text)
        return _replaced(
            "\ncapacities:\n",
            "  - {from: PROBATION, on: settle, to: FINE_TUNING, guard: stability >= 0.5}\n"
            "  - {from: PROBATION, on: fail, to: CULLED, guard: timed_out, priority: 15}\n"
            "\ncapacities:\n",
        )(text)

    records = _grow(tmp_path, edit)
    path = _path(records)
    place = path.index("PROBATION")
    assert path[place - 1 : place + 2] == ["EVALUATING", "PROBATION", "FINE_TUNING"]
    moves = [r for r in records if r.kind == "transition" and "PROBATION" in (r["from"], r["to"])]
    assert moves[1].epoch - moves[0].epoch == 3  # ticks with 0, 1 and 2 epochs behind it

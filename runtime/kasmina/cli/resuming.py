"""How `kasmina grow --resume` finds the run again, and what it may not be told anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kasmina.cli.run_bus import KEPT
from kasmina.errors import KasminaError, UsageError
from kasmina.observe.folder import MARKER, RunFolder

if TYPE_CHECKING:
    from rich.console import Console

    from kasmina.checkpoint import CheckpointManager
    from kasmina.growth.found import Found

OPTIONS = {  # of a run, in its marker: how each is typed
    "task": "--task",
    "width": "--width",
    "budget": "--budget",
    "epochs": "--epochs",
    "seed": "--seed",
    "compare": "--compare",
    "lifecycle": "--lifecycle",
    "limits": "--set",
    "controller": "--controller",
    "strategy": "--strategy",
}
SINCE = KEPT | {"strategy": "linear"}  # options that runs of earlier versions do not have
COMPARISONS = 2  # of a run with --compare


class CannotResume(KasminaError):
    """There is nothing in the directory that could go on."""


def resumed(path: Path, given: Mapping[str, Any]) -> tuple[RunFolder, dict[str, Any]]:
    """The run of a directory and the options that it was started with.

    Args:
        path: the directory.
        given: options that stand beside `--resume`; None for those that do not.

    Raises:
        CannotResume: no run, a finished one, or one from before there were checkpoints.
        UsageError: an option that the run was not started with.
    """
    folder = RunFolder(path)
    options = _options(folder)
    for name, value in given.items():
        if name in OPTIONS and value is not None and value != options[name]:
            was = "none" if options[name] in (None, {}) else options[name]
            raise UsageError(
                f"{OPTIONS[name]} is {value}, but the run in {path} was started with {was}; a run "
                "goes on as it was started, so leave the option out"
            )
    if _is_finished(folder, options):
        raise CannotResume(
            f"{path}: this run is finished, there is nothing left to do; its report is "
            f"{folder.report}"
        )
    return folder, options


def _options(folder: RunFolder) -> dict[str, Any]:
    path, marker = folder.path, folder.marker()
    if marker is None:
        what = (
            "there is no such directory"
            if not path.exists()
            else "this is a file"
            if not path.is_dir()
            else f"this directory holds no run: it has no readable {MARKER}"
        )
        raise CannotResume(f"{path}: {what}; --resume takes the directory of a run, as runs/...")
    options = None if marker.options is None else SINCE | marker.options
    if options is None or not options.keys() >= OPTIONS.keys():
        raise CannotResume(
            f"{path}: this run was made without checkpoints, so it cannot go on; start it again "
            "with --force"
        )
    return options


def _is_finished(folder: RunFolder, options: Mapping[str, Any]) -> bool:
    """Whether everything is there that a run leaves; the report is written last."""
    try:
        result = msgspec.json.decode(folder.result.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return False
    compared = not options["compare"] or len(result.get("comparisons", [])) == COMPARISONS
    there = folder.model.exists() and folder.report.exists()
    return result.get("status") == "finished" and compared and there


def find(manager: CheckpointManager, folder: RunFolder, console: Console) -> Found | None:
    """Find what to go on from, and tell it; None where nothing was saved yet."""
    from kasmina.growth.found import newest

    found = newest(manager, folder.log)
    if found is None:
        console.print("no checkpoint was saved yet: begins anew")
        return None
    if found.skipped:
        console.print(f"went back to {found.id}, because:", markup=False)
        for line in found.skipped:
            console.print(f"- {line}", markup=False, soft_wrap=True)
    if found.machine():
        console.print(
            f"results may differ in their last bits: {found.machine()}",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"goes on at {found.place}, from checkpoint {found.id}", soft_wrap=True)
    return found

"""Checkpoints that a run can go on from: where it stood then, and which one is the newest intact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from kasmina.checkpoint import CheckpointManager, Contents, Damaged, NothingIntact
from kasmina.errors import KasminaError
from kasmina.observe.log import LogError, Position, Record, read_until


class ResumeRefused(KasminaError):
    """The run cannot go on from the checkpoint, intact as it is."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands: the metadata of its checkpoints."""

    epoch: int
    step: int
    log: Position
    seconds: float  # of training
    machine: dict[str, Any]
    tag: str | None = None  # what it was called by whoever asked for it


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that a run can go on from.

    Attributes:
        id: which one.
        contents: what it holds.
        standing: where the run stood.
        events: those that the log had then.
        skipped: what was wrong with newer ones.
    """

    id: str
    contents: Contents
    standing: Standing
    events: list[Record]
    skipped: tuple[str, ...]

    @property
    def position(self) -> Position:
        """Where the log goes on."""
        return self.standing.log

    @property
    def place(self) -> str:
        """Where the run goes on, for people."""
        return f"epoch {self.standing.epoch}, step {self.standing.step}"

    def machine(self) -> str:
        """In what this machine differs, so that the last bits may; "" for nothing."""
        return "; ".join(differences(self.standing.machine, this_machine()))


def newest(manager: CheckpointManager, log: Path) -> Found | None:
    """The newest checkpoint that is intact and whose events are in the log; None without any.

    Raises:
        NothingIntact: there are some, and all are damaged.
        ResumeRefused: some are intact, but of something else, or the log is not there.
        NewerFormat: the newest takes a newer kasmina to read it.
    """
    skipped: list[KasminaError] = []
    for entry in manager.list():
        try:
            contents = manager.restore(str(entry.id)).contents()
            standing = _standing(entry.path, contents)
            events = _events(entry.path, standing, log)
        except (Damaged, ResumeRefused) as error:
            skipped.append(error)
        else:
            told = tuple(map(str, skipped))
            return Found(str(entry.id), contents, standing, events, told)
    damaged = [error for error in skipped if isinstance(error, Damaged)]
    if len(damaged) < len(skipped):
        lines = "\n".join(f"- {error}" for error in skipped)
        raise ResumeRefused(
            f"{manager.directory}: no run can go on from its {len(skipped)} checkpoints:\n{lines}\n"
            "Nothing was changed; restore the run's directory from a backup"
        )
    if damaged:
        raise NothingIntact(manager.directory, damaged)
    return None


def _standing(path: Path, contents: Contents) -> Standing:
    try:
        return msgspec.convert(contents.metadata, Standing)
    except msgspec.ValidationError as error:
        raise ResumeRefused(f"{path}: is intact, but no checkpoint of kasmina grow") from error


def _events(path: Path, standing: Standing, log: Path) -> list[Record]:
    """The log's events up to the checkpoint."""
    try:
        return read_until(log, standing.log)
    except LogError as error:
        raise ResumeRefused(f"{path}: is intact, but its log is not there: {error}") from error


def this_machine() -> dict[str, Any]:
    """What may change the last bits of a sum."""
    return {"torch": str(torch.__version__), "torch threads": torch.get_num_threads()}


def differences(saved: Any, here: Any, place: str = "") -> Iterator[str]:
    """In what two trees of plain values differ, one line each."""
    if isinstance(saved, dict) and isinstance(here, dict):
        for name in dict.fromkeys([*saved, *here]):
            inside = f"{place}.{name}" if place else str(name)
            yield from differences(saved.get(name), here.get(name), inside)
    elif saved != here:
        yield f"{place}: {saved!r} was saved, here it is {here!r}"

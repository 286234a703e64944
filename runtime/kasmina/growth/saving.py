"""Checkpoints of a run: when one is due, what is in it, and how a run goes on from it.

All that decides how a run goes on is a list of named `Stateful` parts beside model, optimizer and
random streams, the same three that a rewind brings back. A checkpoint is taken between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor, nn

from kasmina.checkpoint import (
    BadContents,
    CheckpointManager,
    Contents,
    Damaged,
    NothingIntact,
)
from kasmina.checkpoint.manifest import Priority
from kasmina.errors import KasminaError
from kasmina.growth import rewind
from kasmina.growth.gardener import Gardener
from kasmina.growth.rewind import Snapshot
from kasmina.lifecycle import Lifecycle
from kasmina.observe.log import EventLog, LogError, Position, Record, read_until
from kasmina.sites import Garden, Site, morph
from kasmina.sites.example import Example

if TYPE_CHECKING:
    from kasmina.growth.outside import Outside

MOST_S = 300.0  # seconds of training that a kill may cost, however long an epoch is
OUTSIDE = "outside"  # the part that only a run on a bus has
ROWS = "kasmina.state."  # in a model's state dict; a checkpoint keeps the rows apart


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
        return "; ".join(_differences(self.standing.machine, _machine()))


@dataclass(frozen=True, slots=True)
class Saving:
    """Where and how often a run is saved.

    Attributes:
        manager: of the directory.
        every: epochs from one checkpoint to the next; 0 saves none.
        found: what to go on from; None begins.
        resumes: the run has begun before, though nothing may have been saved yet.
    """

    manager: CheckpointManager
    every: int
    found: Found | None = None
    resumes: bool = False


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


class Keeper:
    """Saves one run, and brings it back.

    Args:
        saving: where and how often.
        gardener: of the run; model and optimizer are its own.
        log: of the run.
        identity: what must be equal where the run goes on, by name; without arrays.
        per_epoch: steps of an epoch.
        outside: the run on a bus; what was asked of it is kept with the rest.
    """

    def __init__(
        self,
        saving: Saving,
        gardener: Gardener,
        log: EventLog | None,
        identity: Mapping[str, Any],
        per_epoch: int,
        outside: Outside | None = None,
    ) -> None:
        self._outside = outside
        self._saving, self._gardener, self._log = saving, gardener, log
        self._parts = {
            **gardener.resumable(),
            "kasmina.samples": _Samples(gardener.garden),
            "kasmina.buffers": _Buffers(gardener.model),
        }
        self._identity = {
            **identity,
            "parts": list(self._parts),
            "morph": _morphing(gardener.garden),
        }
        self._steps = saving.every * per_epoch
        self._started = time.monotonic()
        self.earlier_s = 0.0
        self._parent: str | None = None
        self._note()

    def save_if_due(self) -> None:
        """Save in the background where it is time; call after each step."""
        if not self._steps:
            return
        gardener = self._gardener
        if gardener.milestones != self._milestones:
            self.save("high")
        elif gardener.clock.step >= self._due or time.monotonic() - self._when > MOST_S:
            self.save()

    @property
    def keeps(self) -> bool:
        """Whether checkpoints are saved at all."""
        return bool(self._steps)

    def names(self) -> list[str]:
        """Ids of the checkpoints on the disk, the newest first; from any thread."""
        return [str(entry.id) for entry in self._saving.manager.list()]

    def save(
        self, priority: Priority = "normal", *, blocking: bool = False, tag: str | None = None
    ) -> str:
        """Save now and return the id, "" where none is kept.

        Args:
            priority: which retention it falls under.
            blocking: return when it is on the disk.
            tag: what it is called in lists.

        Raises:
            KasminaError: something in the run cannot be kept.
        """
        if not self._steps:
            return ""
        contents = self._contents(tag)
        try:
            saved = self._saving.manager.save(
                contents, priority=priority, blocking=blocking, parent=self._parent
            )
        except BadContents as error:
            raise KasminaError(
                f"this run cannot be saved: {error}; keep plain values in the state dicts of your "
                "optimizer and scheduler, or run without checkpoints by --checkpoint-every 0"
            ) from error
        self._parent = None  # from here on it is the one before
        self._note()
        if self._outside is not None:
            self._outside.saved(saved, contents.parts[OUTSIDE])
        return saved

    def resume(self, found: Found) -> None:
        """Go on from a checkpoint.

        Raises:
            ResumeRefused: it is of another run; nothing was changed.
        """
        contents = found.contents
        differences = list(_differences(contents.architecture, self._identity))
        if differences or contents.state is None:
            raise ResumeRefused(
                f"checkpoint {found.id} is of another run than this one would be, so nothing was "
                "resumed:\n" + "\n".join(f"- {line}" for line in differences)
            )
        parts = {**contents.parts, "model": _whole(contents)}
        model, optimizer = self._gardener.model, self._gardener.optimizer
        asked = parts.pop(OUTSIDE, None)
        rewind.restore(Snapshot(**parts), model, optimizer, self._parts)
        if self._outside is not None and asked is not None:
            self._outside.load_state_dict(asked)
            self._outside.saved(found.id, asked)
        self.earlier_s, self._parent = found.standing.seconds, found.id
        self._note()

    def seconds(self) -> float:
        """How long the run has trained, before it was resumed as well."""
        return self.earlier_s + time.monotonic() - self._started

    def _note(self) -> None:
        """Something was just saved, or need not be."""
        self._milestones, self._when = self._gardener.milestones, time.monotonic()
        self._due = self._gardener.clock.step + self._steps

    def _contents(self, tag: str | None) -> Contents:
        gardener = self._gardener
        clock = gardener.clock
        parts = rewind.gather(
            0, clock.step, gardener.model, gardener.optimizer, self._parts
        ).parts()
        standing = Standing(
            epoch=clock.epoch,
            step=clock.step,
            log=Position(0, 0) if self._log is None else self._log.sync(),
            seconds=self.seconds(),
            machine=_machine(),
            tag=tag,
        )
        if self._outside is not None:
            parts[OUTSIDE] = self._outside.state_dict()
        host = {name: v for name, v in parts["model"].items() if not name.startswith(ROWS)}
        return Contents(
            state=gardener.garden.state.state_dict(),
            parts={**parts, "model": host},
            architecture=self._identity,
            metadata=msgspec.to_builtins(standing),
            device=str(gardener.garden.state.device),
        )


def regrow(
    host: nn.Module,
    contents: Contents,
    *,
    lifecycle: Lifecycle | None = None,
    example: Example | None = None,
) -> nn.Module:
    """Give a fresh host the sites, pools, seeds and weights of a checkpoint.

    Args:
        host: as the user's factory makes it; it is changed in place.
        contents: of a checkpoint that a run has saved.
        lifecycle: under which its rows were stored; the built-in one by default.
        example: one batch, where the host was morphed with one.

    Returns:
        `host`, which computes what the saved model computes.

    Raises:
        ResumeRefused: the checkpoint is of no run.
        SiteError, StateError, RuntimeError: host or lifecycle are others than those that were saved.
    """
    known = contents.architecture
    if contents.state is None or not isinstance(known, dict) or "morph" not in known:
        raise ResumeRefused("the checkpoint says nothing of sites: no run of kasmina saved it")
    declared = known["morph"]
    sites = [Site(**site) for site in declared["sites"]]
    run, seed = declared["run"], declared["seed"]
    morph(host, sites, lifecycle=lifecycle, run=run, seed=seed, example=example)
    host.load_state_dict(_whole(contents))
    return host


def _morphing(garden: Garden) -> dict[str, Any]:
    """With what a host was morphed."""
    return {
        "sites": [asdict(site) for site in garden.declared],
        "run": garden.run,
        "seed": garden.seed,
    }


def _whole(contents: Contents) -> dict[str, Any]:
    """The model's state dict, with the rows of the seeds."""
    assert contents.state is not None
    rows = {f"{ROWS}{name}": column for name, column in contents.state["columns"].items()}
    return {**contents.parts["model"], **rows}


class _Samples:
    """What the sites last told of their output."""

    def __init__(self, garden: Garden) -> None:
        self._garden = garden

    def state_dict(self) -> dict[str, Any]:
        return {path: site.sampling() for path, site in self._garden.sites.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for path, site in self._garden.sites.items():
            site.resume_sampling(state[path])


class _Buffers:
    """Buffers that a model leaves out of its state dict, e.g. what a site has counted."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Tensor]:
        kept = self._model.state_dict().keys()
        return {name: b for name, b in self._model.named_buffers() if name not in kept}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        buffers = dict(self._model.named_buffers())
        for name, value in state.items():
            if name in buffers and buffers[name].shape == value.shape:
                buffers[name].copy_(value)
            else:
                owner, _, own = name.rpartition(".")
                device = next(self._model.parameters()).device
                self._model.get_submodule(owner).register_buffer(
                    own, value.to(device), persistent=False
                )


def _machine() -> dict[str, Any]:
    """What may change the last bits of a sum."""
    return {"torch": str(torch.__version__), "torch threads": torch.get_num_threads()}


def _differences(saved: Any, here: Any, place: str = "") -> Iterator[str]:
    """In what two trees of plain values differ, one line each."""
    if isinstance(saved, dict) and isinstance(here, dict):
        for name in dict.fromkeys([*saved, *here]):
            inside = f"{place}.{name}" if place else str(name)
            yield from _differences(saved.get(name), here.get(name), inside)
    elif saved != here:
        yield f"{place}: {saved!r} was saved, here it is {here!r}"

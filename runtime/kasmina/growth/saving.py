"""Checkpoints of a run: when one is due, what is in it, and how a run goes on from it.

All that decides how a run goes on is a list of named `Stateful` parts beside model, optimizer and
random streams, the same three that a rewind brings back. A checkpoint is taken between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor, nn

from kasmina.checkpoint import BadContents, CheckpointManager, Contents
from kasmina.checkpoint.manifest import Priority
from kasmina.errors import KasminaError
from kasmina.growth import rewind
from kasmina.growth.found import Found, ResumeRefused, Standing, differences, this_machine
from kasmina.growth.gardener import Gardener
from kasmina.growth.rewind import Snapshot
from kasmina.lifecycle import Lifecycle
from kasmina.observe.log import EventLog, Position
from kasmina.sites import Garden, Site, morph
from kasmina.sites.example import Example

if TYPE_CHECKING:
    from kasmina.growth.outside import Outside

MOST_S = 300.0  # seconds of training that a kill may cost, however long an epoch is
OUTSIDE = "outside"  # the part that only a run on a bus has
ROWS = "kasmina.state."  # in a model's state dict; a checkpoint keeps the rows apart


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
        others = list(differences(contents.architecture, self._identity))
        if others or contents.state is None:
            raise ResumeRefused(
                f"checkpoint {found.id} is of another run than this one would be, so nothing was "
                "resumed:\n" + "\n".join(f"- {line}" for line in others)
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
            machine=this_machine(),
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

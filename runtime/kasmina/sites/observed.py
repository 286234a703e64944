"""What a site keeps of what passes it: samples, the pass that isolated training learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.blueprints import SiteShape
from kasmina.sites.diversion import by_columns
from kasmina.sites.passage import Capture, Keeper, Passage, Recording
from kasmina.sites.plan import Plan
from kasmina.sites.telemetry import ChunkSample, Sample, Sampler, empty_sample, sample


class Observed(nn.Module):
    """The part of a site that changes nothing.

    Attributes:
        rootless: whether nothing of the host trains, so that a loss has no graph but the site's.
    """

    rootless: bool = False
    shape: SiteShape
    plan: Plan

    def __init__(self) -> None:
        super().__init__()
        self.plan = Plan()
        self._quiet, self._watched = True, False
        self._sampler = Sampler(50)
        self._sample: Sample | ChunkSample
        self._capture = Capture()
        self._recorder: Recording | None = None

    def _forget(self, device: torch.device) -> None:
        """Start without a sample and without a captured pass."""
        self._sample = empty_sample(self.shape.d_out, device)
        self._capture.clear()

    def _settle(self) -> None:
        waited = self.rootless or bool(self.plan.shadow) or self._recorder is not None
        self._watched = waited  # whether a pass must be shown to somebody
        self._quiet = self.plan.is_dormant and not waited
        if not self.plan.shadow:
            self._capture.clear()

    def take_root(self, rootless: bool) -> None:
        """Begin the graph here from now on, or leave that to the host again."""
        if rootless is not self.rootless:
            self.rootless = rootless
            self._settle()

    def _measure(self, y: Tensor) -> None:
        """Take a sample of what the site gives."""
        self._sample = sample(by_columns(y.detach(), self.shape))

    def _observe(self, read: Tensor, y: Tensor, grad: bool, key: int | None = None) -> None:
        """Keep what isolated training or a recorder asks for.

        Args:
            read: what the seeds read.
            y: what the site gives.
            grad: whether a backward pass may follow.
            key: tells the pass from others where `y` has no graph, as in a compiled one; its
                gradient will come by `_pulled`.
        """
        if self._recorder is not None:
            if grad:
                self._recorder.take(read, y, key)
            else:
                self._recorder.miss()
        elif grad and self.plan.shadow:  # in evaluation mode, too: some hosts are tuned in it
            self._capture.take(read, y, key)

    def _rooted(self, y: Tensor) -> Tensor:
        """`y`, with a graph if someone waits for its gradient and nothing before the site trains.

        Beside a frozen module, or one without parameters, seeds can learn all the same.
        """
        if not self._watched or y.requires_grad or not torch.is_grad_enabled():
            return y
        if not y.is_floating_point():
            return y
        return y.detach().requires_grad_().clone()  # no leaf: the host may write into it

    def _seen_again(self, key: int) -> None:
        """A checkpoint has run the last pass again, in other memory."""
        for keeper in self._keepers():
            keeper.again(key)

    def _pulled(self, key: int, gradient: Tensor) -> None:
        """The backward pass of a compiled graph has been here."""
        for keeper in self._keepers():
            keeper.pulled(key, gradient)

    def _keepers(self) -> list[Keeper]:
        return [self._capture, *([self._recorder] if self._recorder is not None else [])]

    @property
    def sample_every(self) -> int:
        """Passes between two samples of telemetry; 0 switches it off."""
        return self._sampler.every

    @sample_every.setter
    def sample_every(self, passes: int) -> None:
        self._sampler = Sampler(passes)

    def sampling(self) -> dict[str, Any]:
        """The last sample and when the next one is due, for a run that is resumed."""
        return {
            "sample": tuple(self._sample),
            "every": self._sampler.every,
            "calls": self._sampler._calls,
        }

    def resume_sampling(self, state: Mapping[str, Any]) -> None:
        """Take back what `sampling` gave."""
        *values, places = state["sample"]
        values = [value.to(self._sample[0].device) for value in values]
        kind = Sample if len(values) > 1 else ChunkSample
        self._sample = kind._make([*values, places])
        self._sampler = Sampler(state["every"])
        self._sampler._calls = state["calls"]

    @property
    def captured(self) -> Passage | None:
        """The last training pass, where the site has shadow seeds and it was backpropagated."""
        return self._capture.passage()

    def watch(self, recorder: Recording) -> None:
        """Hand every pass that a backward pass may follow to `recorder`."""
        self._recorder = recorder
        self._settle()

    def unwatch(self) -> None:
        """End `watch`."""
        self._recorder = None
        self._settle()

"""What flowed through a site: kept for isolated training and for judging it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kasmina.sites.layer import SiteLayer


class Passage(NamedTuple):
    """One pass through a site; copies, without a graph.

    `input` is what the seeds read: the site's input where they are parallel, the host's output
    where they are inline. `gradient` is dL/d`output`.
    """

    input: Tensor
    output: Tensor
    gradient: Tensor


class Capture:
    """Keeps the latest training pass through a site.

    Everything is cloned: the host may write into its activations in place later, and autograd may
    hand the very gradient that a hook saw to a parameter and add to it.
    """

    def __init__(self) -> None:
        self.input: Tensor | None = None
        self.output: Tensor | None = None
        self.gradient: Tensor | None = None

    def take(self, x: Tensor, y: Tensor) -> None:
        """Keep input and output, and the gradient once the backward pass has it."""
        self.input, self.output, self.gradient = x.detach().clone(), y.detach().clone(), None
        if y.requires_grad:
            y.register_hook(partial(self._keep, self.output))  # type: ignore[no-untyped-call]

    def _keep(self, output: Tensor, gradient: Tensor) -> None:
        if output is self.output:  # not a later pass's
            self.gradient = gradient.detach().clone()

    def passage(self) -> Passage | None:
        """The pass, once it has been through the backward pass as well."""
        if self.input is None or self.output is None or self.gradient is None:
            return None
        return Passage(self.input, self.output, self.gradient)

    def clear(self) -> None:
        """Let go of what was kept."""
        self.input = self.output = self.gradient = None

    def __deepcopy__(self, memo: dict[int, object]) -> Capture:
        return Capture()  # what flowed through the original is none of a copy's business


class Recorder:
    """Records every pass through a site, in training and in evaluation mode.

    recorder = Recorder(site)
    recorder.start()
    loss = validation_loss(model)
    passages = recorder.finish(loss)
    recorder.stop()
    """

    def __init__(self, site: SiteLayer) -> None:
        self._site = site
        self._passes: list[tuple[Tensor, Tensor]] = []

    def start(self) -> None:
        """Record from now on; forgets what was recorded before."""
        self._passes = []
        self._site.watch(self._take)

    def stop(self) -> None:
        """Record no more."""
        self._site.unwatch()
        self._passes = []

    def finish(self, loss: Tensor) -> list[Passage]:
        """The passes that `loss` came from, in their order; parameters get no gradient.

        The graph stays alive, so that the recorders of other sites can read it too.
        """
        passes = [(x, y) for x, y in self._passes if y.requires_grad]
        outputs = [y for _, y in passes]
        if not outputs:
            return []
        gradients = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
        return [
            Passage(x, y.detach(), torch.zeros_like(y) if g is None else g)
            for (x, y), g in zip(passes, gradients, strict=True)
        ]

    def _take(self, x: Tensor, y: Tensor) -> None:
        self._passes.append((x.detach().clone(), y))

"""What flowed through a site: kept for isolated training and for judging it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from kasmina.sites.errors import SiteError

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


class Keeper(Protocol):
    """What keeps passes.

    In eager mode a pass's output carries a graph, and tells its gradient itself. In a compiled
    graph it does not: there the site tells the gradient, and passes are told apart by a key, the
    address of what the seeds read, which lives until the backward pass.
    """

    def take(self, x: Tensor, y: Tensor, key: int | None) -> None:
        """A pass: what the seeds read, and what the site gave."""

    def again(self, key: int) -> None:
        """The last pass was run again in the backward pass, and has another key now."""

    def pulled(self, key: int, gradient: Tensor) -> None:
        """dL/doutput of a pass."""


class Recording(Keeper, Protocol):
    """A keeper that is shown every pass."""

    def miss(self) -> None:
        """A pass that no backward pass can follow."""


class Capture:
    """Keeps the latest training pass through a site.

    Everything is cloned: the host may write into its activations in place later, and autograd may
    hand the very gradient that a hook saw to a parameter and add to it.
    """

    def __init__(self) -> None:
        self.input: Tensor | None = None
        self.output: Tensor | None = None
        self.gradient: Tensor | None = None
        self._key: int | None = None

    def take(self, x: Tensor, y: Tensor, key: int | None = None) -> None:
        """Keep input and output, and the gradient once the backward pass has it."""
        self.input, self.output, self.gradient = x.detach().clone(), y.detach().clone(), None
        self._key = key
        if y.requires_grad:
            y.register_hook(partial(self._keep, self.output))  # type: ignore[no-untyped-call]

    def _keep(self, output: Tensor, gradient: Tensor) -> None:
        if output is self.output:  # not a later pass's
            self.gradient = gradient.detach().clone()

    def again(self, key: int) -> None:
        """See `Keeper`."""
        if self._key is not None and self.gradient is None:
            self._key = key

    def pulled(self, key: int, gradient: Tensor) -> None:
        """See `Keeper`."""
        if key == self._key and self.output is not None:
            self.gradient = gradient.detach().clone()

    def passage(self) -> Passage | None:
        """The pass, once it has been through the backward pass as well."""
        if self.input is None or self.output is None or self.gradient is None:
            return None
        return Passage(self.input, self.output, self.gradient)

    def clear(self) -> None:
        """Let go of what was kept."""
        self.input = self.output = self.gradient = self._key = None

    def __deepcopy__(self, memo: dict[int, object]) -> Capture:
        return Capture()  # what flowed through the original is none of a copy's business


@dataclass(slots=True, eq=False)
class _Recorded:
    """A pass; `key` is None where `y` carries a graph."""

    x: Tensor
    y: Tensor
    key: int | None
    gradient: Tensor | None = None

    def passage(self) -> Passage:
        gradient = torch.zeros_like(self.y) if self.gradient is None else self.gradient
        return Passage(self.x, self.y.detach(), gradient)


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
        self._passes: list[_Recorded] = []
        self._missed = False

    def start(self) -> None:
        """Record from now on; forgets what was recorded before."""
        self._passes, self._missed = [], False
        self._site.watch(self)

    def stop(self) -> None:
        """Record no more."""
        self._site.unwatch()
        self._passes = []

    def finish(self, loss: Tensor) -> list[Passage]:
        """The passes that `loss` came from, in their order; parameters get no gradient.

        The graph stays alive, so that the recorders of other sites can read it too; a compiled
        one may not allow that: use `finished`.
        """
        return finished([self], loss, retain_graph=True)[0]

    def take(self, x: Tensor, y: Tensor, key: int | None) -> None:
        """See `Keeper`."""
        if key is not None:  # the graph may use its memory again
            self._passes.append(_Recorded(x.clone(), y.clone(), key))
        elif y.requires_grad:
            self._passes.append(_Recorded(x.detach().clone(), y, None))

    def miss(self) -> None:
        """See `Recording`."""
        self._missed = True

    @property
    def is_blind(self) -> bool:
        """Whether passes were seen, and none of them with a graph."""
        return self._missed and not self._passes

    @property
    def path(self) -> str:
        """Of the site."""
        return self._site.path

    def again(self, key: int) -> None:
        """See `Keeper`."""
        if self._passes and self._passes[-1].key is not None:
            self._passes[-1].key = key

    def pulled(self, key: int, gradient: Tensor) -> None:
        """See `Keeper`."""
        for each in reversed(self._passes):
            if each.key == key:
                each.gradient = gradient.clone()
                return

    def reached(self) -> list[Tensor]:
        """What to ask gradients for, so that those of the passes are told."""
        outputs = [each.y for each in self._passes if each.key is None]
        compiled = any(each.key is not None for each in self._passes)
        return [*outputs, self._site.alpha] if compiled else outputs

    def ended(self, gradients: Sequence[Tensor | None]) -> list[Passage]:
        """The passes, given the gradients of what is `reached`."""
        eager = [each for each in self._passes if each.key is None]
        for each, gradient in zip(eager, gradients, strict=False):
            each.gradient = gradient
        return [each.passage() for each in self._passes]


def finished(
    recorders: Sequence[Recorder], loss: Tensor, *, retain_graph: bool = False
) -> list[list[Passage]]:
    """What each recorder has seen of the passes that `loss` came from, by one backward pass.

    Raises:
        SiteError: the loss has a graph, but what passed the sites has none.
    """
    _refuse_blind(recorders, loss)
    asked = [recorder.reached() for recorder in recorders]
    flat = [tensor for tensors in asked for tensor in tensors]
    gradients = iter(
        torch.autograd.grad(loss, flat, retain_graph=retain_graph, allow_unused=True)
        if flat
        else ()
    )
    return [
        recorder.ended([next(gradients) for _ in tensors])
        for recorder, tensors in zip(recorders, asked, strict=True)
    ]


def _refuse_blind(recorders: Sequence[Recorder], loss: Tensor) -> None:
    """Raise where sites were passed without a graph."""
    blind = [recorder.path for recorder in recorders if recorder.is_blind]
    if not blind:
        return
    where = f"sites {', '.join(blind)}: what passed them has no graph, though the loss has one"
    if _is_reentrant(loss):
        raise SiteError(
            f"{where}: the model runs them inside of torch.utils.checkpoint(use_reentrant=True), "
            "which tells no gradient of what is inside. Pass use_reentrant=False, or checkpoint "
            "where self.training only: validation then needs no second pass"
        )
    if len(blind) == len(recorders):
        raise SiteError(
            f"{where}: they ran under torch.no_grad() or on detached parts. Drop it around the model"
        )


def _is_reentrant(loss: Tensor) -> bool:
    """Whether a reentrant checkpoint is in the loss's graph."""
    seen, ahead = set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        ahead += [each for each, _ in node.next_functions]
    return False

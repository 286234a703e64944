"""Validation passes, and what flows through the sites during one.

The user's `validate` runs the model on held-out data and gives the loss. While seeds train aside,
the Gardener also needs the site's input and the gradient of *this* loss at the site's output: the
isolated training is judged on data that it did not learn from. The pass runs in evaluation mode,
through the graph that the host builds anyway, so parameters get no gradient and no buffer moves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.errors import KasminaError
from kasmina.growth.divergence import NonFiniteLoss
from kasmina.growth.flops import uncompiled
from kasmina.sites import Garden, Passage, Recorder, SiteError
from kasmina.sites.passage import finished

Validate = Callable[[], Tensor | tuple[Tensor, float] | tuple[Tensor, float, Tensor | None]]


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation: loss in nats, the task's metric (NaN if it gives none), what was recorded.

    `passages` holds, by site path, one entry a batch. `parts` are the losses `[C]` on C fixed parts
    of the data, where `validate` gives them: from these comes how sure a difference is.
    """

    loss: float
    metric: float
    passages: Mapping[str, list[Passage]] = field(default_factory=dict)
    parts: Tensor | None = None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module returns to the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            if module.training is not training:  # to write an attribute of a module takes long
                module.training = training


class Validator:
    """Runs `validate` for `model`.

    Args:
        model: the morphed model.
        validate: takes nothing; returns the losses of all validation examples `[C]`, or of parts of
            them of equal size, always the same; or their mean as a 0-d tensor (each with its graph,
            where recorded passes are wanted); or one of these and the metric, or also the mean
            losses on parts, `[C]` without a graph.
    """

    def __init__(self, model: nn.Module, validate: Validate) -> None:
        self._model = model
        self._validate: Validate = validate
        self._counted = False  # how often each site runs in a pass

    def measure(self) -> Validation:
        """Loss and metric, without a graph."""
        with evaluating(self._model), torch.no_grad():
            loss, metric, parts = self._call()
        return Validation(float(loss), metric, parts=parts)

    def first(self) -> Validation:
        """The same, and a refusal of what could never judge a seed.

        Raises:
            KasminaError: no example passes a site.
        """
        garden, sizes = Garden.of(self._model), list[int]()
        host, note = garden.host(self._model), partial(_note, sizes)
        starts = [host.get_submodule(site.span[0]) for site in garden.sites.values()]
        hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in starts]
        try:
            with uncompiled():
                found = self.measure()
        finally:
            for hook in hooks:
                hook.remove()
        _refuse_empty(garden.sites, sizes)
        return found

    def gradients(self, leaves: Sequence[Tensor]) -> list[Tensor | None]:
        """The loss's gradients by `leaves`; None for one that it does not depend on."""
        with evaluating(self._model), torch.enable_grad():
            loss = _with_graph(self._call()[0])
            return list(torch.autograd.grad(loss, list(leaves), allow_unused=True))

    def record(self, recorders: Mapping[str, Recorder]) -> Validation:
        """The same, and the inputs and loss gradients of the sites that `recorders` stand for."""
        with evaluating(self._model), torch.enable_grad():
            for recorder in recorders.values():
                recorder.start()
            try:
                loss, metric, parts = self._call()
                found = finished(list(recorders.values()), _with_graph(loss))
                passages = dict(zip(recorders, found, strict=True))
                _refuse_empty(
                    recorders, [p.input.numel() for found in passages.values() for p in found]
                )
            finally:
                for recorder in recorders.values():
                    recorder.stop()
        return Validation(float(loss.detach()), metric, passages, parts)

    def _call(self) -> tuple[Tensor, float, Tensor | None]:
        if self._counted:
            result = self._validate()
        else:
            with _once_each(self._model):
                result = self._validate()
            self._counted = True
        given = result if isinstance(result, tuple) else (result, float("nan"))
        loss, metric, parts = given if len(given) == 3 else (*given, None)
        if isinstance(loss, Tensor) and loss.dim() == 1:
            parts, loss = (loss if parts is None else parts), loss.mean()
        if not isinstance(loss, Tensor) or loss.dim():
            raise KasminaError(
                "validate() must return the losses of all examples as a 1-d tensor, or the mean loss "
                f"as a 0-d one, or (loss, metric); got {type(loss).__name__}"
                f"{tuple(loss.shape) if isinstance(loss, Tensor) else ''}"
            )
        if parts is not None and (not isinstance(parts, Tensor) or parts.dim() != 1):
            raise KasminaError(
                "validate() must return the losses of parts as a 1-d tensor, always of the same parts; "
                f"got {type(parts).__name__}{tuple(parts.shape) if isinstance(parts, Tensor) else ''}"
            )
        return loss, float(metric), None if parts is None else parts.detach()


@contextmanager
def _once_each(model: nn.Module) -> Iterator[None]:
    """Raise `SiteError` where a module of a site has run more than once in a pass of the host."""
    garden, seen = Garden.of(model), list[str | bool]()
    host = garden.host(model)
    ends = dict.fromkeys(name for site in garden.sites.values() for name in site.span if name)
    begins = {name: host.get_submodule(name) for name in ends}
    hooks = [host.register_forward_pre_hook(partial(_pass_by, seen, True))]
    hooks += [m.register_forward_pre_hook(partial(_pass_by, seen, n)) for n, m in begins.items()]
    hooks += [host.register_forward_hook(partial(_pass_by, seen, False))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    times = _times(seen)
    for site in garden.sites.values():
        for name in site.span:
            if times[name] > 1:
                raise SiteError(
                    f"site {site.path!r}: module {name!r} ran {times[name]} times in one pass of the "
                    "model; a site needs exactly one. Place it at a module around the repetition"
                )


def _pass_by(seen: list[str | bool], what: str | bool, *_: Any) -> None:
    """A hook: the host begins (True) or ends (False), or a module of this name runs."""
    seen.append(what)


def _times(seen: Iterable[str | bool]) -> Counter[str]:
    """How often each module ran in one pass of the host, at most."""
    most, now, inside = Counter[str](), Counter[str](), False
    for each in seen:
        if isinstance(each, bool):
            most, now, inside = most | now, Counter(), each
        elif inside:
            now[each] += 1
    return most


def _with_graph(loss: Tensor) -> Tensor:
    if not loss.requires_grad:
        raise KasminaError(
            "validate() returned a loss without a graph, so blueprints that train aside cannot be "
            "judged on held-out data; return the loss tensor itself and drop torch.no_grad() and "
            ".item(): the Gardener switches gradients"
        )
    return loss


def refuse_nan(validation: Validation) -> None:
    """Raise `NonFiniteLoss` for a first measurement that is none."""
    if math.isnan(validation.loss):
        raise NonFiniteLoss(
            "validate() returned a loss of nan at its first measurement, and nothing has germinated "
            "yet: no seed could ever be judged by it. It must be a number, infinity at worst; look "
            "for a mean over no example, NaN in the validation data, or a host that has diverged"
        )


def _note(sizes: list[int], module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
    """A forward hook: how many numbers a module was given."""
    given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    sizes.append(given[0].numel() if given else 1)


def _refuse_empty(sites: Iterable[str], seen: Iterable[int]) -> None:
    """Raise `KasminaError` where no example has passed any site.

    Args:
        sites: their paths.
        seen: how many numbers each pass was given.
    """
    if not any(seen):
        raise KasminaError(
            "validate() ran no example through a site, so nothing can be judged on held-out data: "
            "the validation set is empty, or validate() does not call the model that has grown. "
            f"Sites: {', '.join(sites)}"
        )

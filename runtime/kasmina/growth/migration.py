"""Taking an optimizer over to a model that has grown, by the names of parameters.

The optimizer stays the same object, so schedulers that hold it go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kasmina.errors import KasminaError
from kasmina.growth.optimizer import first_state, initial, is_moment
from kasmina.sites import Garden, SiteError

Named = Mapping[str, nn.Parameter]


def migrate(optimizer: Optimizer, before: Named, model: nn.Module) -> None:
    """Let `optimizer`, which holds the parameters `before`, hold those of `model`, in place.

        before = dict(model.named_parameters())
        kasmina.morph(model, sites)
        kasmina.growth.migrate(optimizer, before, model)

    A parameter of the same name takes the place of the old one: numbers of its state (steps) are
    kept, moments too, padded with what they start with (0) where it has become larger. A new name joins the parameter
    group, with all options, of the parameter whose module is nearest to it; a seed's parameters
    that of its site. Names that are gone leave their group.

    Args:
        optimizer: its state has the parameters' shapes, as that of SGD, Adam, AdamW, NAdam,
            RMSprop, Adagrad.
        before: the parameters that it was made for, by name.
        model: the model now.

    Raises:
        KasminaError: a parameter has shrunk, or the optimizer holds one that `before` does not
            name; the optimizer is as it was.
    """
    after = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in before.items()}
    groups = [[_name(p, names) for p in group["params"]] for group in optimizer.param_groups]
    states = {
        name: _moved(name, optimizer.state[before[name]], before[name], after[name], group)
        for held, group in zip(groups, optimizer.param_groups, strict=True)
        for name in held
        if name in after and before[name] in optimizer.state
    }
    sites = _sites(model)
    known = {name: number for number, held in enumerate(groups) for name in held}
    for name, parameter in after.items():
        if name not in known:
            number = _nearest(_place(name, sites), known)
            groups[number].append(name)
            states[name] = first_state(optimizer, optimizer.param_groups[number], parameter)
    for group, held in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = [after[name] for name in held if name in after]
    optimizer.state.clear()
    optimizer.state.update({after[name]: state for name, state in states.items() if state})


def _name(parameter: nn.Parameter, names: Mapping[int, str]) -> str:
    if id(parameter) not in names:
        raise KasminaError(
            f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that `before` does "
            "not name; give dict(model.named_parameters()) from when the optimizer was made"
        )
    return names[id(parameter)]


def _moved(
    name: str,
    state: Mapping[str, Any],
    old: nn.Parameter,
    new: nn.Parameter,
    group: Mapping[str, Any],
) -> dict[str, Any]:
    """A parameter's state for the one that takes its place."""
    if old.dim() != new.dim() or any(a > b for a, b in zip(old.shape, new.shape, strict=True)):
        raise KasminaError(
            f"{name} had shape {tuple(old.shape)} and has {tuple(new.shape)} now; an optimizer's "
            "state can be padded, not cut. Build a new optimizer"
        )
    return {
        key: _padded(value, new, initial(group, key)) if is_moment(value, old) else value
        for key, value in state.items()
    }


def _padded(moment: Tensor, new: nn.Parameter, start: float) -> Tensor:
    if moment.shape == new.shape:
        return moment.to(new.device)
    larger = torch.full(new.shape, start, dtype=moment.dtype, device=new.device)
    larger[tuple(slice(size) for size in moment.shape)] = moment
    return larger


def _sites(model: nn.Module) -> dict[str, str]:
    """By prefix of the parameters' names of each site, the name of the site's first module."""
    try:
        garden = Garden.of(model)
    except SiteError:
        return {}
    modules = {id(module): name for name, module in model.named_modules()}
    return {f"{modules[id(site)]}.": site.span[0] for site in garden.sites.values()}


def _place(name: str, sites: Mapping[str, str]) -> str:
    """Where a parameter stands; a seed's stand at their site."""
    for prefix, first in sites.items():
        if name.startswith(prefix):
            return f"{first}.{name.removeprefix(prefix)}"
    return name


def _nearest(name: str, known: Mapping[str, int]) -> int:
    """The group of the first parameter that shares the longest part of its path with `name`."""
    path = name.split(".")

    def shared(other: str) -> int:
        pairs = zip(path, other.split("."), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    return known[max(known, key=shared)] if known else 0

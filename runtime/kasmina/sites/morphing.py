"""Putting seeds into a model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

import torch
from torch import nn

from kasmina.blueprints import BlueprintError, PoolFull, SiteShape
from kasmina.lifecycle import Lifecycle, StateTensor
from kasmina.sites.chunked import InlineSite
from kasmina.sites.errors import SiteError
from kasmina.sites.example import Example
from kasmina.sites.garden import RESERVED, Garden
from kasmina.sites.layer import SiteLayer
from kasmina.sites.locate import Spot, locate, refuse_unfit, shapes
from kasmina.sites.parallel import ParallelSite
from kasmina.sites.place import Place
from kasmina.sites.shapes import keeps_positions
from kasmina.sites.site import Site

Model = TypeVar("Model", bound=nn.Module)
_COLUMNS = ("blueprint_id", "blueprint_slot", "generation", "alpha")


def morph(
    model: Model,
    sites: Sequence[Site],
    *,
    lifecycle: Lifecycle | None = None,
    run: str = "run",
    seed: int = 0,
    example: Example | None = None,
) -> Model:
    """Give `model` seeds, in place.

    Its parameters' names and state_dict keys stay; what is new lies under `model.kasmina`. Until
    a seed is grafted the model computes what it computed before, to the bit.

    Args:
        model: any module; its tensors may be on any device.
        sites: where seeds shall live; rows of the state tensor are given out in this order.
        lifecycle: the seeds' lifecycle; the built-in one by default.
        run: name of the run in addresses, without a slash.
        seed: of the run, for the blueprints' initial values.
        example: one batch for `model`, a tensor, a tuple of arguments or a mapping of keywords.
            It is run once, in evaluation mode and without a trace, where modules do not tell
            their features themselves; it also finds modules that run twice in a pass, which
            without it a Gardener's first measurement refuses.

    Returns:
        `model`.

    Raises:
        SiteError: a site cannot be where it was asked to be; the model is as it was.
    """
    _refuse_arguments(model, sites, run, seed)
    refuse_unfit(model)
    refuse_default_device()
    with torch.inference_mode(False):  # whose tensors could never be trained
        return _morphed(model, sites, lifecycle or Lifecycle.default(), run, seed, example)


def _refuse_arguments(model: nn.Module, sites: Sequence[Site], run: str, seed: int) -> None:
    """Raise `SiteError` where `morph` was given what no annotation allows."""
    if isinstance(sites, Site) or not all(isinstance(site, Site) for site in sites):
        raise SiteError(
            f"sites must be a sequence of kasmina.Site, like [Site('blocks.*')]; got {sites!r}"
        )
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise SiteError(
            f"model must be an nn.Module that is not scripted; got {type(model).__name__}"
        )
    if not sites:
        raise SiteError("sites is empty; name at least one Site")
    if not isinstance(run, str) or "/" in run:
        raise SiteError(f"run={run!r}; legal: a name without a slash")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise SiteError(f"seed={seed!r}; legal: a whole number")


def refuse_default_device() -> None:
    """Raise `SiteError` where tensors without a device of their own are made on another one than the CPU.

    What is remembered of seeds would lie there, where the host's hot path would wait for it.
    """
    device = torch.get_default_device()
    if device.type != "cpu":
        raise SiteError(
            f"torch's default device is {device}, where what is remembered of seeds must not lie; call "
            "torch.set_default_device('cpu') and move model and data there by .to(device)"
        )


def _morphed(
    model: Model,
    sites: Sequence[Site],
    lifecycle: Lifecycle,
    run: str,
    seed: int,
    example: Example | None,
) -> Model:
    _refuse_lifecycle(lifecycle)
    spots = locate(model, sites)
    for spot in spots:
        _refuse_in_place(spot)
    found = shapes(model, spots, example)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    ends = list(accumulate(spot.site.seeds for spot in spots))
    state = StateTensor(ends[-1], lifecycle=lifecycle, device=_device(model))
    layers = [
        _layer(model, spot, shape, end - spot.site.seeds, state)
        for spot, shape, end in zip(spots, found, ends, strict=True)
    ]
    for layer in layers:
        layer.rootless = not any(parameter.requires_grad for parameter in model.parameters())
    garden = Garden(layers, state, run=run, seed=seed, host_parameters=parameters, declared=sites)
    model.add_module(RESERVED, garden)
    for spot, layer in zip(spots, layers, strict=True):
        _install(spot, layer)
    _run_part_by_part(model, spots, layers)
    return model


def _layer(
    model: nn.Module, spot: Spot, shape: SiteShape, first_row: int, state: StateTensor
) -> SiteLayer:
    site = spot.site
    place = Place(
        path=spot.path,
        first=spot.first,
        last=spot.last,
        first_row=first_row,
        seeds=site.seeds,
        shape=shape,
        kinds=site.kinds,
        hidden=site.hidden,
        mode=site.mode,
        options=site.options,
        fixed=site.layout is not None or shape.moves_positions,
    )
    _refuse_unknown_positions(spot, shape)
    kind = InlineSite if site.placement == "inline" else ParallelSite
    try:
        return kind(place, state, _dtype(model, spot))
    except (BlueprintError, PoolFull, SiteError) as error:
        raise SiteError(f"site {spot.path!r}: {error}") from error


def _refuse_unknown_positions(spot: Spot, shape: SiteShape) -> None:
    """A convolution may write other positions than it reads; only an example tells for sure."""
    if spot.site.placement == "inline" or not shape.channels_first or shape.out_layout is not None:
        return
    if not (spot.start is spot.end and keeps_positions(spot.end)):
        raise SiteError(
            f"site {spot.path!r}: it may write other positions (length, height, width) than it "
            "reads, and parallel seeds must know; give morph() one batch as example=, or use "
            "placement='inline'"
        )


def _refuse_lifecycle(lifecycle: Lifecycle) -> None:
    declared = {column.name for column in lifecycle.columns}
    missing = [name for name in _COLUMNS if name not in declared]
    if missing:
        raise SiteError(
            f"the lifecycle {lifecycle.name!r} has no column {', '.join(missing)}, which seeds in "
            "a model need; its spec's state file must declare them"
        )


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _dtype(model: nn.Module, spot: Spot) -> torch.dtype:
    """That of the site's own parameters, else of the model's first ones."""
    own = (p.dtype for m in (spot.end, spot.start, model) for p in m.parameters())
    return next((dtype for dtype in own if dtype.is_floating_point), torch.get_default_dtype())


def _refuse_in_place(spot: Spot) -> None:
    """A parallel seed reads the input after the host's first module may have overwritten it."""
    first = spot.start
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]
    if spot.site.placement == "parallel" and getattr(first, "inplace", False):
        raise SiteError(
            f"site {spot.path!r}: {type(first).__name__}(inplace=True) overwrites the input that "
            "parallel seeds read; use inplace=False, or begin the site at the next module"
        )


def _install(spot: Spot, layer: SiteLayer) -> None:
    """What runs is a bound method of the layer, so a deep copy of the model runs its own layer."""
    if isinstance(layer, ParallelSite) and spot.start is not spot.end:
        layer.divert_span(spot.start, spot.end)
    else:
        layer.divert(spot.end)


def _run_part_by_part(model: nn.Module, spots: Sequence[Spot], layers: Sequence[SiteLayer]) -> None:
    """Keep encoder layers off their fused path, which would go past the sites inside them.

    In evaluation mode nn.TransformerEncoderLayer hands its parts' weights to one function, unless
    it or one of them has a hook.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            for spot, layer in zip(spots, layers, strict=True):
                if any(end.startswith(f"{name}.") or not name for end in (spot.first, spot.last)):
                    module.register_forward_hook(layer.stay_out)
                    break

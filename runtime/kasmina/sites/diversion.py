"""How a site stands in the place of a module's `forward`, and what it reads and gives back there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kasmina.blueprints import SiteShape
from kasmina.sites.errors import SiteError

if TYPE_CHECKING:
    from kasmina.sites.traced import Traced

# What returns a tensor that nobody else has seen, and that its backward pass does not read.
_FRESH = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm)


def nowhere(*args: Any, **kwargs: Any) -> Any:
    """The inside of a site that was never put into a model."""
    raise AssertionError("the site was never put into a model")


def diverted(module: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
    """Put `run` in the place of the module's forward; returns what ran there before.

    That is no bound method: a copy or a pickle would look it up by its name and find `run`.
    """
    own: Callable[..., Any] | None = module.__dict__.get("forward")
    module.__dict__["forward"] = run
    return own if own is not None else partial(type(module).forward, module)


def returns_fresh(module: nn.Module) -> bool:
    """Whether what the module returns may be overwritten; to be asked before it is diverted."""
    return type(module) in _FRESH and "forward" not in module.__dict__


def first_tensor(output: Any, site: Traced) -> Tensor:
    """The tensor that seeds act on; raises `SiteError` where there is none."""
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, Tensor):
        raise SiteError(
            f"site {site.path!r}: the module returned {type(output).__name__}; seeds can act on a "
            "tensor, or on a tuple that begins with one (as nn.GRU returns). Place the site at a "
            "module inside that returns a tensor"
        )
    return first


def first_argument(args: Any, kwargs: Any, site: Traced) -> Tensor:
    """The tensor that a module was called with first; raises `SiteError` where there is none."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    if not isinstance(first, Tensor):
        raise SiteError(
            f"site {site.path!r}: the module was called with {type(first).__name__} as its first "
            "argument; parallel seeds read that and need a tensor. Use placement='inline', or "
            "place the site at a module that takes a tensor first"
        )
    return first


def with_first(output: Any, first: Tensor) -> Any:
    """`output` with another first element; named tuples stay named."""
    if isinstance(output, Tensor):
        return first
    rest = output[1:]
    return type(output)(first, *rest) if hasattr(output, "_fields") else (first, *rest)


def by_columns(y: Tensor, shape: SiteShape) -> Tensor:
    """A site's tensor as `[N, F, ...]`."""
    # A view that changes nothing costs 1.5 us, and a pass through a site makes up to three.
    return y if shape.channels_first or y.dim() == 2 else y.reshape(-1, y.shape[-1])

"""The kinds of blueprints, by name, and what a kind must be able to do.

A kind is stateless: it says which parameters one seed has and computes with parameters that it is
given, stacked over many seeds. That lets a `BlueprintPool` own the numbers and a kernel take the
place of `forward`.

    @kasmina.blueprint("bottleneck")
    class Bottleneck(kasmina.Blueprint): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from inspect import isabstract, signature
from math import prod
from reprlib import repr as short
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from kasmina.blueprints.options import Legal, Whole
from kasmina.blueprints.shape import BlueprintError, Cost, SiteShape
from kasmina.kernels.together import Units
from kasmina.registry import Registry

Parameters = Mapping[str, Tensor]  # name -> [S, ...]


class Blueprint(ABC):
    """A kind of small module at one place.

    What a kind reads and writes depends on the site alone, so that kinds can compete for it.
    Legend: S seeds, B examples, c chunk width, `...` positions of a channel-first site.

    | site | reads | writes |
    |---|---|---|
    | inline, features | `[S, B, c]` | `[S, B, c]` |
    | inline, channel-first | `[S, B, c, ...]` | `[S, B, c, ...]` |
    | parallel, features | `[B, d_in]` | `[S, B, d_out]` |
    | parallel, channel-first | `[B, d_in, ...]` | `[S, B, d_out, ...]` |

    Args:
        shape: the place.
        hidden: hidden units (channels, rank) of one seed, 1 to 65,536.
    """

    name: ClassVar[str] = ""
    # What `forward` computes, from which a kernel is made; "" for none. `{maps: {up: bias}, hidden:
    # tanh(up)}`: maps of the input, and the hidden units of what they give; the parameters are
    # `up_weight` [hidden, d_in], `up_bias`, `out_weight` [d_out, hidden] and, inline, `out_bias`.
    # `{elementwise: x * scale + shift}`: parameters [d_out]. A class declares its own, for itself.
    formula: ClassVar[str] = ""
    # What arguments of `__init__` may be, by name; one that is not here may be anything.
    options: ClassVar[Mapping[str, Legal]] = {"hidden": Whole()}

    def __init__(self, shape: SiteShape, hidden: int) -> None:
        self.check({"hidden": hidden})
        self.shape = shape
        self.hidden = hidden

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Refuse arguments that the kind does not have or that have no legal value.

        Raises:
            BlueprintError: says which one, what it is and what is legal.
        """
        _, *known = signature(cls).parameters.values()  # without the shape
        names = [each.name for each in known]
        free = any(each.kind is each.VAR_KEYWORD for each in known)
        for name, value in options.items():
            if name not in names and not free:
                raise BlueprintError(
                    f"blueprint {cls.name!r} has no option {name!r}; its options are "
                    f"{', '.join(names)}"
                )
            legal = cls.options.get(name)
            if legal is not None and not legal.takes(value):
                raise BlueprintError(
                    f"blueprint {cls.name!r}: {name}={short(value)}; legal: {legal}. Say it with "
                    f"Site(..., options={{{cls.name!r}: {{{name!r}: ...}}}})"
                )

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters of one seed, in a fixed order."""

    @abstractmethod
    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Fresh float32 parameters of one seed, on the generator's device."""

    @abstractmethod
    def forward(self, params: Parameters, x: Tensor) -> Tensor:
        """All seeds at once; shapes as in the table of the class.

        Args:
            params: name -> `[S, ...]`.
            x: what the site gives; a parallel site gives all seeds the same.
        """

    @abstractmethod
    def output(self) -> tuple[str, ...]:
        """Names of the parameters in which the output is linear and homogeneous."""

    @abstractmethod
    def flops(self) -> int:
        """FLOPs of a forward pass of one example, 2 for a multiply-add."""

    @abstractmethod
    def export(self, params: Parameters) -> nn.Module:
        """A plain module that computes what one seed with `params` (name -> `[...]`) computes.

        It takes what `forward` takes, without the axis of the seeds. Every part of it has
        `reset_parameters`, so that the architecture can be trained from the start.
        """

    def begin(self, params: Parameters, x: Tensor, target: Tensor) -> Mapping[str, Tensor] | None:
        """Better values than `params` to begin with, given the first batch; None to keep them.

        Args:
            params: of the seeds that begin, name -> `[S, ...]`, as `init` drew them.
            x: as `forward` reads it.
            target: what `forward` should give, `[S, N, ...]`, or without S where all share it.
        """
        return None

    def together(self) -> Units | None:
        """What makes the hidden units of all parallel seeds one layer, or None for no such kind."""
        return None

    def scale_output(self, params: Parameters, factor: Tensor) -> None:
        """Multiply what each seed computes by `factor` `[S]`, in place in its last map."""
        with torch.no_grad():
            for name in self.output():
                values = params[name]
                values.mul_(factor.to(values).view(-1, *[1] * (values.dim() - 1)))

    def cost(self) -> Cost:
        """What one seed costs."""
        return self._cost

    @cached_property
    def _cost(self) -> Cost:
        parameters = sum(prod(shape) for shape in self.shapes().values())
        return Cost(parameters, self.flops(), 4 * parameters)


Kind = TypeVar("Kind", bound=type[Blueprint])
_KINDS: Registry[type[Blueprint]] = Registry(
    "blueprint", "kasmina.blueprint", "low_rank", BlueprintError
)


def blueprint(name: str) -> Callable[[Kind], Kind]:
    """Register the decorated `Blueprint` class as `name`.

    Raises:
        BlueprintError: the name is taken, is no plain word, or the class is no `Blueprint`.
    """
    _KINDS.refuse(name)

    def register(kind: Kind) -> Kind:
        if not (isinstance(kind, type) and issubclass(kind, Blueprint)):
            raise BlueprintError(
                f"blueprint {name!r}: {kind!r} is no class derived from kasmina.Blueprint"
            )
        if isabstract(kind):
            raise BlueprintError(
                f"blueprint {name!r}: {kind.__qualname__} lacks "
                f"{', '.join(sorted(kind.__abstractmethods__))}; see kasmina.Blueprint"
            )
        if hasattr(nn.ModuleDict, name):
            raise BlueprintError(f"{name!r} cannot name a blueprint; nn.ModuleDict uses it itself")
        _KINDS.add(name, kind, kind)
        kind.name = name
        return kind

    return register


def known_blueprints() -> tuple[str, ...]:
    """The registered names, in the order of registration."""
    return _KINDS.names()


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse further arguments that the kind `name` cannot have; raises `BlueprintError`."""
    _KINDS.get(name).check(options)


def blueprint_kind(name: str) -> Callable[..., Blueprint]:
    """The class registered as `name`, called with `(shape, hidden, **options)`.

    Raises:
        BlueprintError: there is none; lists the known ones.
    """
    return _KINDS.get(name)

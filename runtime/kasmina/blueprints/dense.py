"""Kinds that map features: `mlp`, `low_rank`, `gated` and `affine`. Legend: S seeds, B examples.

The last map of a parallel seed has no bias: what it adds to has one already, or needs none. An
inline seed has one, since a seed that replaces its chunk must be able to give any value.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kasmina.blueprints.maps import linear, plain_linear, uniform
from kasmina.blueprints.options import Legal, OneOf
from kasmina.blueprints.plain import Affine, OverChannels, SwiGLU
from kasmina.blueprints.registry import Blueprint, Parameters, blueprint
from kasmina.blueprints.shape import BlueprintError, SiteShape
from kasmina.blueprints.starts import STARTS
from kasmina.kernels.together import Units

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
# By activation: the gradient of its argument, from that of its value.
_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda flow, x: torch.ops.aten.threshold_backward(flow, x, 0),
    "gelu": torch.ops.aten.gelu_backward,
    "silu": torch.ops.aten.silu_backward,
}
_MODULES: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class _Pointwise(Blueprint):
    """A map of features; at a channel-first site it is applied to the channels of each position."""

    def __init__(self, shape: SiteShape, hidden: int) -> None:
        super().__init__(shape, hidden)
        if shape.moves_positions:
            raise BlueprintError(
                f"blueprint {self.name!r} maps each position by itself, but the site changes its "
                f"positions from {shape.layout} to {shape.out_layout}; use blueprint='conv', or "
                "placement='inline'"
            )

    @abstractmethod
    def apply(self, params: Parameters, x: Tensor) -> Tensor:
        """Map `[S, B, d_in]`, or shared `[B, d_in]`, to `[S, B, d_out]`."""

    @abstractmethod
    def plain(self, params: Parameters) -> nn.Module:
        """A module that maps `[..., d_in]` to `[..., d_out]`, as one seed does."""

    def forward(self, params: Parameters, x: Tensor) -> Tensor:
        """See `Blueprint.forward`."""
        if not self.shape.channels_first:
            return self.apply(params, x)
        batch = 0 if self.shape.placement == "parallel" else 1  # axis of the examples
        places = x.movedim(batch + 1, -1)  # [B, ..., d_in] or [S, B, ..., d_in]
        mapped = self.apply(params, places.flatten(batch, -2))
        return mapped.view(len(mapped), *places.shape[batch:-1], self.shape.d_out).movedim(-1, 2)

    def export(self, params: Parameters) -> nn.Module:
        """See `Blueprint.export`."""
        made = self.plain(params)
        return OverChannels(made) if self.shape.channels_first else made


class _Dense(_Pointwise):
    """What the kinds with one hidden layer share; `inner` names the maps that read the input.

    Args:
        shape: the place.
        hidden: hidden units of one seed.
        start: `random`, or for parallel seeds `tiny` or `gradmax`, see `blueprints.starts`.
    """

    inner: tuple[str, ...]
    inner_bias: bool
    options: ClassVar[Mapping[str, Legal]] = {**Blueprint.options, "start": OneOf(*STARTS)}

    def __init__(self, shape: SiteShape, hidden: int, start: str = "random") -> None:
        super().__init__(shape, hidden)
        self.check({"start": start})
        if start != "random" and (shape.placement == "inline" or shape.channels_first):
            raise BlueprintError(
                f"blueprint {self.name!r}: start={start!r} reads the gradient at the output of a "
                "site of features, which parallel seeds learn; use start='random' here"
            )
        if start == "gradmax" and (why := self._dead_at_zero()):
            raise BlueprintError(
                f"blueprint {self.name!r}: start='gradmax' begins with weights of 0, and {why}; use "
                "start='tiny' here"
            )
        self._units_of = STARTS[start]  # no string: strings choose among kernels

    def _dead_at_zero(self) -> str:
        """Why units that read with 0 would do so for ever; "" where they learn."""
        return ""

    def begin(self, params: Parameters, x: Tensor, target: Tensor) -> Mapping[str, Tensor] | None:
        """See `Blueprint.begin`."""
        if self._units_of is None:
            return None
        seeds = len(params["out_weight"])
        units = self._units_of(x, target, seeds * self.hidden)
        begun = {name: value.clone() for name, value in params.items()}
        begun["out_weight"].zero_()
        for number in range(len(units.read)):  # the first directions go to different seeds
            seed, unit = number % seeds, number // seeds
            self._begin_unit(begun, seed, unit, units.read[number], units.bias[number])
            begun["out_weight"][seed, :, unit] = units.write[number]
        return begun

    def _begin_unit(
        self, begun: Parameters, seed: int, unit: int, read: Tensor, bias: Tensor
    ) -> None:
        """Let a unit give `read x + bias`, as near as its kind can."""
        (name,) = self.inner
        begun[f"{name}_weight"][seed, unit] = read
        if self.inner_bias:
            begun[f"{name}_bias"][seed, unit] = bias

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Inner maps `[hidden, d_in]` with their biases, then `out_weight` `[d_out, hidden]`."""
        found: dict[str, tuple[int, ...]] = {}
        for name in self.inner:
            found[f"{name}_weight"] = (self.hidden, self.shape.d_in)
            if self.inner_bias:
                found[f"{name}_bias"] = (self.hidden,)
        found["out_weight"] = (self.shape.d_out, self.hidden)
        if self.shape.placement == "inline":
            found["out_bias"] = (self.shape.d_out,)
        return found

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Every map as nn.Linear starts."""
        return {
            name: uniform(
                shape, self.hidden if name.startswith("out") else self.shape.d_in, generator
            )
            for name, shape in self.shapes().items()
        }

    def output(self) -> tuple[str, ...]:
        """The last map."""
        return tuple(name for name in self.shapes() if name.startswith("out"))

    def flops(self) -> int:
        """Two products with each weight, at every position."""
        sizes = (a * b for a, b in (s for s in self.shapes().values() if len(s) == 2))
        return 2 * sum(sizes) * self.shape.positions

    @abstractmethod
    def units(self, *given: Tensor) -> Tensor:
        """The hidden units of what the inner maps give, element by element."""

    def slopes(self, flow: Tensor, *given: Tensor) -> Sequence[Tensor]:
        """The gradients of what is `given` to `units`, from that of what it gives.

        A kind that defines its `units` alone leaves them to autograd, which takes longer.
        """
        raise NotImplementedError

    def apply(self, params: Parameters, x: Tensor) -> Tensor:
        """See `_Pointwise.apply`."""
        given = [linear(x, params[f"{n}_weight"], params.get(f"{n}_bias")) for n in self.inner]
        return linear(self.units(*given), params["out_weight"], params.get("out_bias"))

    def together(self) -> Units | None:
        """See `Blueprint.together`."""
        ours = (type(self).apply, type(self).forward) == (_Dense.apply, _Pointwise.forward)
        parallel = self.shape.placement == "parallel" and not self.shape.channels_first
        both = _home(type(self), "units") is _home(type(self), "slopes")
        slopes = self.slopes if both else None
        return Units(self.inner, self.units, slopes) if ours and parallel else None


def _home(kind: type, method: str) -> type:
    """The class that defines a kind's method: who overrides one of a pair leaves the other alone."""
    return next(each for each in kind.__mro__ if method in vars(each))


@blueprint("mlp")
class Mlp(_Dense):
    """`out(activation(up(x)))`: hidden units, beside the host's own where the seed is parallel."""

    inner, inner_bias = ("up",), True
    options: ClassVar[Mapping[str, Legal]] = {**_Dense.options, "activation": OneOf(*_FUNCTIONS)}

    def __init__(
        self,
        shape: SiteShape,
        hidden: int,
        activation: Literal["relu", "gelu", "silu"] = "relu",
        start: str = "random",
    ) -> None:
        self.check({"activation": activation})
        self.activation = activation
        super().__init__(shape, hidden, start)

    def _dead_at_zero(self) -> str:
        relu = self.activation == "relu"
        return "relu'(0) = 0 leaves a ReLU that reads with 0 dead for ever" if relu else ""

    def units(self, *given: Tensor) -> Tensor:
        """See `_Dense.units`."""
        return _FUNCTIONS[self.activation](*given)

    def slopes(self, flow: Tensor, *given: Tensor) -> Sequence[Tensor]:
        """See `_Dense.slopes`."""
        return (_SLOPES[self.activation](flow, *given),)

    def plain(self, params: Parameters) -> nn.Module:
        """Linear, activation, Linear."""
        return nn.Sequential(
            plain_linear(params["up_weight"], params["up_bias"]),
            _MODULES[self.activation](),
            plain_linear(params["out_weight"], params.get("out_bias")),
        )


@blueprint("low_rank")
class LowRank(_Dense):
    """`out(down(x))`, a linear map of rank `hidden` (Hu et al. 2021, LoRA, without its zero start).

    At most of rank min(d_in, d_out), which a larger `hidden` cannot raise.
    """

    inner, inner_bias = ("down",), False

    def units(self, *given: Tensor) -> Tensor:
        """See `_Dense.units`."""
        (down,) = given
        return down

    def slopes(self, flow: Tensor, *given: Tensor) -> Sequence[Tensor]:
        """See `_Dense.slopes`."""
        return (flow,)

    def plain(self, params: Parameters) -> nn.Module:
        """Two Linears."""
        return nn.Sequential(
            plain_linear(params["down_weight"]),
            plain_linear(params["out_weight"], params.get("out_bias")),
        )


@blueprint("gated")
class Gated(_Dense):
    """`out(silu(gate(x)) * up(x))`: SwiGLU (Shazeer 2020, GLU Variants Improve Transformer, eq. 6).

    Unlike there the two inner maps have biases, since a small host's features are not normalised.
    """

    inner, inner_bias = ("gate", "up"), True

    def _dead_at_zero(self) -> str:
        return "a product of two zeros has no gradient by either"

    def _begin_unit(
        self, begun: Parameters, seed: int, unit: int, read: Tensor, bias: Tensor
    ) -> None:
        """The gate starts open: silu(1.2785) = 1, and learns to close."""
        begun["gate_weight"][seed, unit], begun["gate_bias"][seed, unit] = 0.0, 1.2784645
        begun["up_weight"][seed, unit], begun["up_bias"][seed, unit] = read, bias

    def units(self, *given: Tensor) -> Tensor:
        """See `_Dense.units`."""
        gate, up = given
        return F.silu(gate) * up

    def slopes(self, flow: Tensor, *given: Tensor) -> Sequence[Tensor]:
        """See `_Dense.slopes`."""
        gate, up = given
        return _SLOPES["silu"](flow * up, gate), flow * F.silu(gate)

    def plain(self, params: Parameters) -> nn.Module:
        """The plain SwiGLU module."""
        gate, up = (plain_linear(params[f"{n}_weight"], params[f"{n}_bias"]) for n in self.inner)
        return SwiGLU(gate, up, plain_linear(params["out_weight"], params.get("out_bias")))


@blueprint("affine")
class AffineMap(_Pointwise):
    """`x * scale + shift` by feature, as in FiLM (Perez et al. 2018); has no hidden units.

    Starts as the zero function. A parallel seed needs as many features at its input as at its
    output.
    """

    def __init__(self, shape: SiteShape, hidden: int) -> None:
        super().__init__(shape, hidden)
        if shape.d_in != shape.d_out:
            raise BlueprintError(
                "blueprint 'affine' maps features one by one, but this site reads "
                f"{shape.d_in} and writes {shape.d_out}; use 'mlp' or 'low_rank' here"
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Scale and shift, `[d_out]` each."""
        return {"scale": (self.shape.d_out,), "shift": (self.shape.d_out,)}

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Zeros; the gradient of both does not vanish there."""
        device = generator.device
        return {name: torch.zeros(s, device=device) for name, s in self.shapes().items()}

    def apply(self, params: Parameters, x: Tensor) -> Tensor:
        """See `_Pointwise.apply`."""
        return x * params["scale"].unsqueeze(1) + params["shift"].unsqueeze(1)

    def output(self) -> tuple[str, ...]:
        """Both parameters."""
        return ("scale", "shift")

    def flops(self) -> int:
        """One multiply-add a feature."""
        return 2 * self.shape.d_out * self.shape.positions

    def plain(self, params: Parameters) -> nn.Module:
        """The plain Affine module."""
        made = Affine(self.shape.d_out).to(params["scale"])
        with torch.no_grad():
            made.scale.copy_(params["scale"])
            made.shift.copy_(params["shift"])
        return made

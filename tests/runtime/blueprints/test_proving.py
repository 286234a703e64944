"""Kinds of a user's own that do not keep what `Blueprint` says: found when a site asks for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kasmina.blueprints import Blueprint, BlueprintError, SiteShape, blueprint, prove
from kasmina.blueprints.maps import linear, plain_linear
from kasmina.blueprints.registry import _KINDS, Parameters
from kasmina.sites import Site, SiteError, morph
from tests.runtime.blueprints.places import PLACES

CPU = torch.device("cpu")


class Map(Blueprint):
    """A kind that keeps all of it: one linear map of what it reads."""

    name = "map"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The map."""
        return {"weight": (self.shape.d_out, self.shape.d_in)}

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Drawn."""
        return {n: torch.rand(shape, generator=generator) for n, shape in self.shapes().items()}

    def forward(self, params: Parameters, x: Tensor) -> Tensor:
        """All maps at once."""
        return linear(x, params["weight"])

    def output(self) -> tuple[str, ...]:
        """The map."""
        return ("weight",)

    def flops(self) -> int:
        """Two products with each weight."""
        return 2 * self.shape.d_in * self.shape.d_out

    def export(self, params: Parameters) -> nn.Module:
        """A Linear."""
        return plain_linear(params["weight"])


SQUARE = SiteShape("parallel", 4, 4)
WHERE = ", where a seed reads 4 and writes 4 features (parallel); legal: "


@pytest.mark.parametrize("place", ["inline features", "parallel features", "parallel tokens"])
def test_a_kind_that_keeps_its_word(place: str) -> None:
    """Passes, and no random stream has moved."""
    before = torch.get_rng_state()
    prove(Map(PLACES[place], 2), CPU)
    assert torch.equal(torch.get_rng_state(), before)


class OverChannels(Map):
    """Drops positions that it should keep."""

    name = "map"

    def forward(self, params: Parameters, x: Tensor) -> Tensor:
        """Averages them."""
        return linear(x.mean(2), params["weight"]).unsqueeze(-1)


def test_positions_of_a_site_of_channels() -> None:
    """Where they are known they are held too; where not, what can be is."""
    with pytest.raises(
        BlueprintError, match=r"forward made torch.float32 \[2, 3, 5, 1\] of x \[3, 3, 9\]"
    ):
        prove(OverChannels(PLACES["parallel signal"], 2), CPU)
    prove(OverChannels(SiteShape("parallel", 3, 5, None, True), 2), CPU)


@pytest.mark.parametrize(
    ("method", "gives", "told"),
    [
        (
            "shapes",
            lambda self: {"weight": (2.5,)},
            "gave {'weight': (2.5,)}" + WHERE + "{'weight': (3, 4)}, words and sizes from 1 on",
        ),
        (
            "shapes",
            lambda self: [4],
            "gave [4]" + WHERE + "{'weight': (3, 4)}, words and sizes from 1 on",
        ),
        (
            "shapes",
            lambda self: {"occupied": (4,)},
            "gave a parameter 'occupied', as something of its pool is called already"
            + WHERE
            + "another name",
        ),
        (
            "shapes",
            lambda self: {"rows": (4,)},
            "gave a parameter 'rows', as something of its pool is called already"
            + WHERE
            + "another name",
        ),
        ("init", lambda self, g: None, f"gave NoneType{WHERE}a tensor for each of weight"),
        ("init", lambda self, g: {}, f"gave []{WHERE}a tensor for each of weight"),
        (
            "init",
            lambda self, g: {"weight": torch.ones(4)},
            f"gave torch.float32 [4] as 'weight'{WHERE}finite floats [4, 4]",
        ),
        (
            "init",
            lambda self, g: {"weight": torch.full((4, 4), torch.nan)},
            f"gave what is not finite as 'weight'{WHERE}finite floats [4, 4]",
        ),
        ("output", lambda self: ("bias",), f"gave ('bias',){WHERE}a tuple of weight"),
        ("output", lambda self: "weight", f"gave 'weight'{WHERE}a tuple of weight"),
        ("flops", lambda self: -1, f"gave -1{WHERE}a whole number from 0 on"),
        (
            "forward",
            lambda self, params, x: None,
            f"made NoneType of x [3, 4]{WHERE}floats [2, 3, 4], 2 seeds first",
        ),
        (
            "forward",
            lambda self, params, x: x,
            f"made torch.float32 [3, 4] of x [3, 4]{WHERE}floats [2, 3, 4], 2 seeds first",
        ),
        (
            "forward",
            lambda self, params, x: torch.stack([x, x]),
            f"gave no gradient{WHERE}torch's operations on its parameters",
        ),
        (
            "forward",
            lambda self, params, x: linear(x.mul_(2), params["weight"]),
            f"wrote into x{WHERE}an output of its own",
        ),
        (
            "forward",
            lambda self, params, x: params["wieght"],
            f"raised KeyError: 'wieght'{WHERE}what Blueprint's table says",
        ),
        (
            "forward",
            lambda self, params, x: linear(x, params["weight"]).tanh(),
            "is not linear in ('weight',), as output() says that it is"
            + WHERE
            + "half of it where these are halved",
        ),
        ("export", lambda self, params: 5, f"gave int{WHERE}an nn.Module"),
        (
            "export",
            lambda self, params: nn.Identity(),
            (
                f"gave a module that computes other values{WHERE}what forward computes of one seed, "
                "[3, 4]"
            ),
        ),
    ],
)
def test_a_kind_that_does_not(method: str, gives: object, told: str) -> None:
    """The message names kind, class, method, what came, where, and what is legal."""
    kind = type("Broken", (Map,), {method: gives})(SQUARE, 2)
    with pytest.raises(BlueprintError) as error:
        prove(kind, CPU)
    assert str(error.value) == f"blueprint 'map': Broken.{method} {told}"


def test_a_kind_that_is_never_folded() -> None:
    """It may say so."""

    def export(self: Blueprint, params: Parameters) -> nn.Module:
        raise NotImplementedError

    prove(type("Unfolded", (Map,), {"export": export})(SQUARE, 2), CPU)


def test_a_site_tries_what_it_shall_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is built: the model is as it was."""
    broken = type("Broken", (Map,), {"output": lambda self: ()})
    monkeypatch.setitem(_KINDS._entries, "map", broken)
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(SiteError, match=r"^site '0': blueprint 'map': Broken\.output gave \(\)"):
        morph(model, [Site("0", blueprint="map")])
    assert list(model._modules) == ["0"]


def test_an_abstract_class_is_no_kind() -> None:
    """It is told what it lacks when it is registered."""
    partial = type("Partial", (Blueprint,), {"shapes": Map.shapes, "init": Map.init})
    with pytest.raises(BlueprintError) as error:
        blueprint("partial")(partial)
    assert str(error.value) == (
        "blueprint 'partial': Partial lacks export, flops, forward, output; see kasmina.Blueprint"
    )

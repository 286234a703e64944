"""Names of kinds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kasmina.blueprints import (
    Blueprint,
    BlueprintError,
    BlueprintPool,
    SiteShape,
    blueprint,
    blueprint_kind,
    known_blueprints,
)
from kasmina.blueprints.registry import Parameters


class Shift(Blueprint):
    """A user's kind: adds a constant."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """One vector."""
        return {"shift": (self.shape.d_out,)}

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Ones."""
        return {"shift": torch.ones(self.shape.d_out)}

    def forward(self, params: Parameters, x: Tensor) -> Tensor:
        """The constant."""
        return params["shift"].unsqueeze(1).expand_as(x)

    def output(self) -> tuple[str, ...]:
        """All of it."""
        return ("shift",)

    def flops(self) -> int:
        """None."""
        return 0

    def export(self, params: Parameters) -> nn.Module:
        """Not needed here."""
        raise NotImplementedError


def test_built_in_kinds() -> None:
    """The library's kinds are registered when the room is imported."""
    assert set(known_blueprints()) >= {"mlp", "low_rank", "gated", "affine", "conv"}


def test_a_kind_of_ones_own() -> None:
    """A registered class is found by its name and can be pooled."""
    if "shift_for_test" not in known_blueprints():
        blueprint("shift_for_test")(Shift)
    kind = blueprint_kind("shift_for_test")(SiteShape("inline", 3, 3), 1)
    pool = BlueprintPool(kind, 1)
    row = torch.tensor([pool.allocate(torch.Generator())])
    assert pool.name == "shift_for_test"
    assert torch.equal(kind.forward(pool.rows(row), torch.zeros(1, 2, 3)), torch.ones(1, 2, 3))


def test_unknown_name() -> None:
    """An unknown name lists the known ones and the nearest."""
    with pytest.raises(BlueprintError) as error:
        blueprint_kind("low_ranks")
    known = ", ".join(known_blueprints())
    assert str(error.value).startswith(f"unknown blueprint 'low_ranks'; known: {known}")
    assert str(error.value).endswith("; did you mean 'low_rank'?")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "mlp",
            Shift,
            "blueprint 'mlp' is already registered by Mlp; choose another name",
        ),
        ("my kind", Shift, "'my kind' is no plain word; name the blueprint like 'low_rank'"),
        (
            Shift,
            Shift,
            (
                "kasmina.blueprint needs a name: write @kasmina.blueprint('low_rank'); got <class "
                f"{Shift.__module__ + '.Shift'!r}>"
            ),
        ),
        ("values", Shift, "'values' cannot name a blueprint; nn.ModuleDict uses it itself"),
        (
            "other",
            nn.Linear,
            (
                "blueprint 'other': <class 'torch.nn.modules.linear.Linear'> is no class derived from "
                "kasmina.Blueprint"
            ),
        ),
    ],
)
def test_refused_registrations(name: str, kind: type[Blueprint], message: str) -> None:
    """A name that is taken or unusable, and a class that is no kind, are refused."""
    with pytest.raises(BlueprintError) as error:
        blueprint(name)(kind)
    assert str(error.value) == message


def test_a_decorator_without_a_name() -> None:
    """Told at once: what it decorates would become something else."""
    with pytest.raises(
        BlueprintError, match=r"^kasmina\.blueprint needs a name: write @kasmina\.bl"
    ):
        blueprint(Shift)  # type: ignore[arg-type]

"""What a user may write as a `Site`."""

from __future__ import annotations

from typing import Any

import pytest

from kasmina.errors import KasminaError
from kasmina.sites import Site


def test_kinds() -> None:
    """One kind or several; a seed's `blueprint_id` counts them."""
    assert Site("a").kinds == ("mlp",)
    assert Site("a", blueprint=("conv", "gated")).kinds == ("conv", "gated")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "beside"}, "placement 'beside'; legal: inline, parallel"),
        ({"mode": "add"}, "mode 'add'; legal: residual, replace"),
        ({"mode": "replace"}, "a parallel seed adds; mode='replace' is for inline seeds"),
        ({"seeds": 0}, "seeds=0 and hidden=8 must both be 1 or more"),
        ({"hidden": -1}, "seeds=8 and hidden=-1 must both be 1 or more"),
        ({"blueprint": ()}, "blueprint is empty; name at least one kind"),
        *[
            (
                {"layout": layout},
                (
                    f"layout {layout!r}; legal: (channels, length), (channels, height, width) or "
                    "('sequence', tokens, features), whole numbers from 1 on"
                ),
            )
            for layout in ((1,), (1, 0), [1, 40], (1, 40.0), ("sequence", 1, 2, 3), (1, True), ())
        ],
        (
            {"options": {"conv": {"layers": 2}}},
            "options for conv, which the site does not grow; it grows mlp",
        ),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    """What makes no sense is refused when it is written."""
    with pytest.raises(KasminaError) as error:
        Site("block", **options)
    assert str(error.value) == f"Site('block'): {message}"


def test_an_unknown_kind() -> None:
    """The registry's own message, at once."""
    with pytest.raises(
        KasminaError, match=r"unknown blueprint 'mpl'; known: .* did you mean 'mlp'"
    ):
        Site("block", blueprint="mpl")

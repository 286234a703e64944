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
        *[
            ({"seeds": wrong}, f"seeds={wrong!r}; legal: a whole number from 1 to 1048576")
            for wrong in (0, -1, 2.5, True, "8", None, 10**12)
        ],
        *[
            ({"hidden": wrong}, f"hidden={wrong!r}; legal: a whole number from 1 to 65536")
            for wrong in (0, -1, 2.5, True, "8", None, 10**12)
        ],
        ({"features": 0}, "features=0; legal: a whole number from 1 to 2147483648, or None"),
        ({"channels_first": 1}, "channels_first=1; legal: None, True, False"),
        ({"until": 3}, "until=3; legal: a module's name, or None"),
        ({"blueprint": ()}, "blueprint is empty; name at least one kind"),
        ({"blueprint": ("mlp", "mlp")}, "blueprint=('mlp', 'mlp'); name each kind once"),
        *[
            (
                {"blueprint": wrong},
                f"blueprint={wrong!r}; legal: a kind's name like 'mlp', or a tuple of names",
            )
            for wrong in (5, None, (3,), {"mlp": 1})
        ],
        *[
            (
                {"options": wrong},
                f"options={wrong!r}; legal: options by kind, like {{'conv': {{'layers': 2}}}}",
            )
            for wrong in (None, 5, {"mlp": 5}, {"mlp": {3: 1}})
        ],
        (
            {"options": {"mlp": {"depth": 3}}},
            "blueprint 'mlp' has no option 'depth'; its options are hidden, activation, start",
        ),
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

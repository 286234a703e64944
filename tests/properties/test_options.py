"""Options of the built-in kinds: nothing but their legal values gets in."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasmina.blueprints import Blueprint, BlueprintError, blueprint_kind
from kasmina.sites import Site, SiteError
from tests.runtime.blueprints.places import FITTING, KINDS, PLACES

OPTIONS = [(kind, option) for kind in KINDS for option in blueprint_kind(kind).options]  # type: ignore[attr-defined]
WORDS = ("random", "tiny", "gradmax", "relu", "gelu", "silu", "mean", "flatten")
ODD = st.integers(-5, 1100).filter(lambda n: n % 2 == 1)
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.integers(-5, 70),
    ODD,
    st.floats(),
    st.text(max_size=9),
    st.sampled_from(WORDS),
    st.lists(st.integers(), max_size=3),
    st.binary(max_size=3),
)


def legal(kind: str, option: str, value: Any) -> bool:
    """What the documentation of each kind says."""
    if isinstance(value, bool):
        return option == "causal"
    if value is None:
        return option == "causal" or (kind != "causal_conv" and option in ("kernel", "layers"))
    if isinstance(value, str):
        words = {"start": WORDS[:3], "activation": WORDS[3:6], "pool": WORDS[6:]}
        return value in words.get(option, ())
    if not isinstance(value, int):
        return False
    most = {"hidden": 65536, "layers": 64, "kernel": 1023}.get(option, 0)
    even = option == "kernel" and kind != "causal_conv" and value % 2 == 0
    return 1 <= value <= most and not even


@pytest.mark.parametrize(("kind", "option"), OPTIONS)
def test_every_option_has_wrong_values(kind: str, option: str) -> None:
    """At the site and at the kind, before any shape is looked at: kind, option, value, legal."""
    place = next(PLACES[place] for place, fits in FITTING if fits == kind)
    told = blueprint_kind(kind).options[option]  # type: ignore[attr-defined]
    for value in (2.5, True, "8", -1, 0, 10**12, [3], b"3", float("nan"), object, 1.0):
        if legal(kind, option, value):
            continue
        with pytest.raises(SiteError) as at_site:
            Site("a", blueprint=kind, options={kind: {option: value}})
        with pytest.raises(BlueprintError) as at_kind:
            blueprint_kind(kind)(place, **{"hidden": 4, option: value})
        assert str(at_site.value) == f"Site('a'): {at_kind.value}"
        assert str(at_kind.value) == (
            f"blueprint {kind!r}: {option}={value!r}; legal: {told}. Say it with "
            f"Site(..., options={{{kind!r}: {{{option!r}: ...}}}})"
        )


@given(st.sampled_from(OPTIONS), anything)
def test_a_value_is_legal_or_refused(which: tuple[str, str], value: Any) -> None:
    """As the documentation says, whatever is given."""
    kind, option = which
    if legal(kind, option, value):
        Site("a", blueprint=kind, options={kind: {option: value}})
    else:
        with pytest.raises(SiteError, match=f"^Site\\('a'\\): blueprint '{kind}': {option}="):
            Site("a", blueprint=kind, options={kind: {option: value}})


def test_every_argument_of_a_kind_is_an_option() -> None:
    """A built-in kind takes nothing whose values are not declared."""
    for kind in KINDS:
        found = blueprint_kind(kind)
        assert isinstance(found, type) and issubclass(found, Blueprint)
        assert {"shape", *found.options} == set(signature(found).parameters)

"""Enums, edges, measurements and limits of generated packages."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kasmina_generated.lifecycle as seeds
import kasmina_generated.lifecycle_v1.lifecycle as seeds_v1
from kasmina_generated import guards, state, tables
from kasmina_generator import read_spec
from tests.generated.packages import SPECS, Package, built, package


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A machine with every dtype and policy."""
    return package("orders", tmp_path_factory.mktemp("orders"))


def test_names_and_numbers_are_those_of_the_spec() -> None:
    """Enums carry the spec's names, codes and bits."""
    spec = read_spec(SPECS["lifecycle"])
    assert {s.name: s.value for s in seeds.State} == {s.name: s.code for s in spec.states}
    assert {e.name: e.value for e in seeds.Event} == {e.name: e.bit for e in spec.events}
    assert {e.name: e.value for e in seeds.Effect} == {e.name: 1 << e.bit for e in spec.effects}
    assert [p.name for p in seeds.Plane] == ["identity", "shadow", "blend", "full", "withdraw"]
    stamp = (spec.name, spec.version, spec.digest)
    assert stamp == (seeds.SPEC_NAME, seeds.SPEC_VERSION, seeds.SPEC_DIGEST)
    assert spec.initial == seeds.INITIAL.name


def test_edges_are_those_of_the_spec() -> None:
    """In order, with target, effects, place and whether they re-arm a slot."""
    spec = read_spec(SPECS["lifecycle"])
    for edge, declared in zip(seeds.EDGES, spec.edges, strict=True):
        assert (edge.index, edge.source.name, edge.target.name) == (
            declared.index,
            declared.source,
            declared.target,
        )
        assert (edge.event.name if edge.event is not None else "recycle") == declared.event
        assert {effect.name for effect in edge.effects} == set(declared.effects)
        assert (edge.recycle, edge.line) == (declared.recycle, declared.place.line)
        assert edge.urgent == (declared.event in {"emergency", "cancel"})
    assert {state.name for state in seeds.TERMINAL} == {s.name for s in spec.states if s.terminal}
    assert {event.name for event in seeds.COMMANDS} == {
        event.name for event in spec.events if event.kind == "command"
    }
    assert seeds.GROUPS["ended"] == {
        seeds.State.CULLED,
        seeds.State.CANCELLED,
        seeds.State.ROLLED_BACK,
    }


def test_tables_are_dense_and_read_only() -> None:
    """Each table has its dtype and shape, and refuses to be written."""
    n, m = tables.N_STATES, tables.N_EDGES
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "EDGE_SOURCE": (np.int8, (m,)),
        "EDGE_TARGET": (np.int8, (m,)),
        "EDGE_EVENT": (np.int8, (m,)),
        "EDGE_EFFECTS": (np.int32, (m,)),
        "MIN_EPOCHS": (np.int16, (n,)),
        "MAX_EPOCHS": (np.int16, (n,)),
        "IS_TERMINAL": (np.bool_, (n,)),
        "STATE_PLANE": (np.uint8, (n,)),
        "LEGAL_COMMANDS": (np.bool_, (n, tables.N_EVENTS)),
    }
    for name, (dtype, shape) in shapes.items():
        array = getattr(tables, name)
        assert (array.dtype, array.shape) == (dtype, shape), name
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert tables.MAX_EPOCHS[seeds.State.DORMANT] == -1
    assert tables.STATE_PLANE[seeds.State.TRAINING] == seeds.Plane.shadow
    legal = tables.LEGAL_COMMANDS[seeds.State.GRAFTING]
    assert [e for e in seeds.Event if legal[e]] == [seeds.Event.emergency, seeds.Event.cancel]


def test_codes_without_a_state_stay_empty(orders: Package) -> None:
    """Codes need not be dense; tables are, and nothing is legal in between."""
    assert orders.tables.N_STATES == 43
    assert not orders.tables.LEGAL_COMMANDS[11].any()
    assert orders.tables.STATE_OWNER[orders.lifecycle.State.PAID] == 2


def test_the_context_normalises() -> None:
    """Rounded to float32, NaN and range as the spec says."""
    context = seeds.Context(evaluation_score=0.1, alpha=1.5, reconstruction_loss=math.nan)
    assert context.evaluation_score == float(np.float32(0.1))
    assert context.alpha == 1.0
    assert context.reconstruction_loss == math.inf
    assert seeds.Context(evaluation_score=1e300).evaluation_score == math.inf
    defaults: dict[str, Any] = {field.name: field.default for field in fields(seeds.Context)}
    assert seeds.Context() == seeds.Context(**defaults)


def test_the_context_refuses_what_the_spec_refuses() -> None:
    """The message names field, value and range."""
    with pytest.raises(ValueError) as raised:
        seeds.Context(alpha=math.inf)
    assert str(raised.value) == (
        "context field 'alpha': inf is refused by the spec; give a number from 0.0 to 1.0"
    )


def test_every_policy(orders: Package) -> None:
    """Refused NaN, unknown infinity, integers that saturate, bools that are bools."""
    Context = orders.lifecycle.Context
    with pytest.raises(ValueError, match="'price': nan is refused"):
        Context(price=math.nan)
    assert math.isnan(Context(paid=math.inf).paid)
    assert math.isnan(Context(paid=math.nan).paid)
    assert Context(items=-7, packed=10**12) == Context(items=0, packed=1000)
    assert Context(items=np.int64(4)).items == 4
    with pytest.raises(TypeError):
        Context(items=2.5)
    assert Context(signed=np.True_).signed is True
    with pytest.raises(ValueError, match="'signed': 2 is no bool; give True or False"):
        Context(signed=2)


def test_limits_round_and_keep_their_range(orders: Package) -> None:
    """The message names limit, value and range."""
    assert seeds.Limits().max_reconstruction_loss == float(np.float32(0.7))
    with pytest.raises(ValueError) as raised:
        seeds.Limits(min_stability=1.25)
    assert str(raised.value) == (
        "limit 'min_stability': 1.25 is out of range; give a number from 0.0 to 1.0"
    )
    with pytest.raises(ValueError, match="'min_stability': nan is out of range"):
        seeds.Limits(min_stability=math.nan)
    with pytest.raises(ValueError, match=r"'min_improvement': 11\.0 is out of range"):
        seeds_v1.Limits(min_improvement=11.0)
    with pytest.raises(ValueError, match="'max_training': 0 is out of range; give a number from 1"):
        seeds.Limits(max_training=0)
    with pytest.raises(ValueError, match="'open_for_business': 7 is no bool"):
        orders.lifecycle.Limits(open_for_business=7)
    assert orders.lifecycle.Limits(open_for_business=False).open_for_business is False


def test_values_are_frozen_and_travel() -> None:
    """Contexts, limits and edges cannot change, compare by value and can be pickled."""
    context, limits = seeds.Context(alpha=0.5), seeds.Limits(max_cohort=3)
    with pytest.raises(FrozenInstanceError):
        context.alpha = 1.0  # type: ignore[misc]
    for value in (context, limits, seeds.EDGES[9]):
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301


def test_guards_are_indexed_by_edge() -> None:
    """An unguarded edge always passes; the others read context, limits and epochs."""
    assert len(guards.GUARDS) == len(seeds.EDGES)
    settle = next(e for e in seeds.EDGES if e.event is seeds.Event.settle)
    guard = guards.GUARDS[settle.index]
    steady = seeds.Context(stability=0.9)
    assert guard(steady, seeds.Limits(), 1)
    assert not guard(steady, seeds.Limits(), 0)
    assert not guard(seeds.Context(stability=0.8999999), seeds.Limits(), 1)
    assert guards.GUARDS[0] is guards.always
    assert guards.always(steady, seeds.Limits(), 0)


def test_columns_are_those_of_the_state_file() -> None:
    """Names, dtypes, lengths, defaults and roles."""
    columns = {column.name: column for column in state.COLUMNS}
    assert columns["lifecycle_state"].role == "state"
    assert (columns["history"].length, columns["history"].default) == (10, -1)
    assert columns["metrics"].fields == ("loss", "accuracy", "stability", "efficiency")
    assert columns["alpha"].role is None


def test_a_spec_without_a_state_file_has_no_columns(tmp_path: Path) -> None:
    """Then there is no state.py."""
    built(SPECS["traffic_light"], tmp_path / "light")
    assert not (tmp_path / "light" / "state.py").exists()


def test_both_built_in_packages_live_side_by_side() -> None:
    """The 5-state machine has classes of its own."""
    assert len(seeds_v1.State) == 5
    assert id(seeds_v1.State) != id(seeds.State)
    assert seeds_v1.SPEC_NAME == "lifecycle_v1"

"""Manager, vector step and reference mean the same, on every machine that we have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kasmina_spec
from kasmina.lifecycle import (
    ContextTable,
    Lifecycle,
    LifecycleManager,
    LimitTable,
    StateTensor,
    step,
)
from kasmina_generator.build import build, user_target
from kasmina_generator.model import Edge

from .lifecycle_reference import Reference, Seed, Values
from .lifecycle_walks import Machine, Trio, Walk

_FOREIGN = sorted((Path(__file__).parents[1] / "generator" / "machines").glob("*.yaml"))
_FOREIGN = [path for path in _FOREIGN if not path.stem.endswith("_state")]
_PATHS = [kasmina_spec.LIFECYCLE, kasmina_spec.LIFECYCLE_V1, *_FOREIGN]


@pytest.fixture(scope="module", params=_PATHS, ids=lambda path: path.stem)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Each spec, with the package that is committed for it or one that is built for the test."""
    path: Path = request.param
    built_in = {kasmina_spec.LIFECYCLE: Lifecycle.default, kasmina_spec.LIFECYCLE_V1: Lifecycle.v1}
    if path in built_in:
        return Machine(path, Reference(path), built_in[path]())
    directory = tmp_path_factory.mktemp(path.stem)
    build([user_target(path, directory)])
    return Machine(path, Reference(path), Lifecycle.from_directory(directory))


@settings(deadline=None, max_examples=100)
@given(rng=st.randoms(use_true_random=False))
def test_three_interpreters_agree(machine: Machine, rng: Random) -> None:
    """States, epochs, edges, refusals, parents, histories and generations, to the last one."""
    Trio(machine, Walk(machine, rng)).run()


@pytest.mark.parametrize(("ulps", "settles"), [(-1, False), (0, True), (1, True)])
def test_a_threshold_is_the_nearest_float32(ulps: int, settles: bool) -> None:
    """0.7 as a double is not 0.7 as a float32: the limit is rounded once, for all backends."""
    lifecycle = Lifecycle.default()
    state, context = StateTensor(1), ContextTable(1)
    state.update(
        0, {"lifecycle_state": int(lifecycle.State["STABILIZATION"]), "epochs_in_state": 1}
    )
    limits = LimitTable()
    limits.override("min_stability", 0.7)
    value = np.float32(0.7)
    for _ in range(abs(ulps)):
        value = np.nextafter(value, np.float32(ulps * np.inf))
    context.set(0, "stability", float(value))
    manager = LifecycleManager(limits=limits.limits, state=state.state(0))
    manager.epochs = 1
    assert (manager.tick(context.row(0)) is not None) is settles
    assert (len(step(state, None, context, limits, True).rows) == 1) is settles


def test_walks_reach_every_edge(machine: Machine) -> None:
    """Otherwise the agreement would say little."""
    missing = {edge.index for edge in machine.reference.spec.edges}
    for number in range(5000):
        walk = Walk(machine, Random(number))
        for inputs in walk.steps:
            moves = machine.reference.step(
                walk.seeds, inputs.commands, inputs.contexts, walk.limits, inputs.tick
            )
            missing -= {move.edge for move in moves}
        if not missing:
            return
    assert not missing


class _ForgetsUrgency(Reference):
    def wanted(
        self, seed: Seed, commands: frozenset[str], read: Values, limits: Values, tick: bool
    ) -> Edge | None:
        """Command edges wait for a tick."""
        return super().wanted(seed, commands if tick else frozenset(), read, limits, tick)


class _GivesOnePlaceTooMany(Reference):
    def refused(
        self,
        seeds: Sequence[Seed],
        wanted: Sequence[Edge | None],
        read: Sequence[Values],
        limits: Values,
    ) -> set[int]:
        """Every capacity has one more."""
        more = {c.limit: limits[c.limit] + 1 for c in self.spec.capacities}
        return super().refused(seeds, wanted, read, {**limits, **more})


class _KeepsEpochs(Reference):
    def move(self, seed: Seed, edge: Edge) -> None:
        """The counter runs on into the next state."""
        epochs = seed.epochs
        super().move(seed, edge)
        seed.epochs = epochs


class _TakesNaNForZero(Reference):
    def normalised(self, context: Values) -> Values:  # type: ignore[override]
        """Whatever the spec says of NaN."""
        return super().normalised({n: 0.0 if isnan(v) else v for n, v in context.items()})


class _ForgetsTheStateLeft(Reference):
    def move(self, seed: Seed, edge: Edge) -> None:
        """History holds the state entered."""
        super().move(seed, edge)
        seed.history[-1] = edge.target


@pytest.mark.parametrize(
    "wrong",
    [_ForgetsUrgency, _GivesOnePlaceTooMany, _KeepsEpochs, _TakesNaNForZero, _ForgetsTheStateLeft],
)
def test_the_comparison_can_fail(wrong: Callable[[Path], Reference]) -> None:
    """A reference that is wrong in one point does not agree."""
    path = kasmina_spec.LIFECYCLE
    machine = Machine(path, wrong(path), Lifecycle.default())
    with pytest.raises(AssertionError):
        for number in range(200):
            Trio(machine, Walk(machine, Random(number))).run()

"""Growth of a compiled model: the graph is made once, whatever its seeds do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from kasmina.grafting import known_strategies
from kasmina.growth import Command, Scripted
from kasmina.sites import Site
from tests.runtime.growth.gardens import GERMINATE, Bed

# Dynamo makes one of every autograd function that it traces, and torch warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
SITES = (
    Site(".", seeds=4, blueprint=("mlp", "gated"), hidden=3),
    Site("0", placement="inline", seeds=3, blueprint=("mlp", "affine"), hidden=2),
    Site("2", placement="inline", seeds=2, blueprint="low_rank", features=3, mode="replace"),
)
PER_SITE = (range(4), range(4, 7), range(7, 9))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def germinate(*rows: int) -> Sequence[Command]:
    """Of each site the kinds in turn, and every strategy."""
    strategies = known_strategies()[:6]  # those that are built in
    kinds = ("mlp", "gated") * 2 + ("mlp", "affine", "mlp") + ("low_rank",) * 2
    return [
        Command(
            GERMINATE, row, "test", blueprint=kinds[row], strategy=strategies[row % len(strategies)]
        )
        for row in rows
    ]


def bed(run: str) -> Bed:
    """Two waves of seeds; the second one in slots that were used before, and taken back."""
    script: dict[int, Sequence[Command]] = {
        1: germinate(*range(9)),
        15: germinate(0, 6, 7),
        17: [Command("cancel", 6, "test")],
        19: [Command("emergency", 7, "test")],
    }
    made = Bed(Scripted(script), sites=SITES, together=5, contest=1)
    if run != "eager":
        made.run = torch.compile(made.model, fullgraph=True, backend=run)
        _run_in_every_mode(made)
    torch.manual_seed(0)  # dropout's
    return made


def _run_in_every_mode(made: Bed) -> None:
    """What a graph is made for: batches of training and validation, with gradients and without."""
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    for training in (True, False):
        made.model.train(training)
        for x in (made.x[:48], made.x[192:]):
            made.run(x)
            with torch.no_grad():
                made.run(x)
    made.model.load_state_dict(before)


def life(made: Bed) -> tuple[list[list[str]], Tensor]:
    """The states of all seeds at each epoch's end, and the validation losses."""
    states, losses = [], []
    for epoch in range(21):
        if epoch == 9:
            made.gardener.limits.override("min_validation_gain", 0.001)
        made.epoch()
        states.append(made.states)
        losses.append(made.gardener.validation.loss)
    return states, torch.tensor(losses)


def test_a_whole_life_compiles_nothing_again() -> None:
    """The same states and losses as in eager mode, all 11 states, and not one recompilation."""
    expected, losses = life(bed("eager"))
    compiled = bed("aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        found, compiled_losses = life(compiled)
    assert found == expected
    torch.testing.assert_close(compiled_losses, losses, rtol=1e-3, atol=1e-4)
    lifecycle = compiled.gardener.garden.state.lifecycle
    assert {s for states in found for s in states} == {state.name for state in lifecycle.State}

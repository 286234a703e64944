"""The main job, on a small task of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kasmina.control import TamiyoController
from kasmina.control.tamiyo import TamiyoConfig
from kasmina.errors import KasminaError
from kasmina.growth import GrowConfig, Idle, NonFiniteLoss, RunResult, grow, replay
from kasmina.growth.task import Batch, Task, accuracy, cross_entropy, evaluate, seeded
from kasmina.observe.log import EventLog, read_log
from kasmina.sites import Site, fold
from kasmina.tasks.data import Split, SplitData
from tests.runtime.growth.gardens import QUICK, assert_same, data


def _splits() -> tuple[Split, Split, Split]:
    x, y = data(640)
    bounds = {"train": (0, 384), "validation": (384, 512), "test": (512, 640)}
    train, validation, test = (Split(n, x[a:b], y[a:b]) for n, (a, b) in bounds.items())
    return train, validation, test


def _build(seed: int, width: int | None = None) -> nn.Module:
    w = width or 2
    with seeded(seed):
        return nn.Sequential(nn.Linear(8, w), nn.ReLU(), nn.Linear(w, 2))


TASK = Task(
    name="products",
    build_model=_build,
    build_data=lambda seed: SplitData(*_splits(), batch_size=64, seed=seed),
    loss=cross_entropy,
    metric=accuracy,
    sites=lambda: (Site(".", seeds=2, blueprint="mlp", hidden=8),),
    default_epochs=40,
    default_width=2,
    default_budget=220,
    widths=True,
)

EARLY = TamiyoConfig(first=0.1)


def _grow(task: Task = TASK, path: Path | None = None, **config: object) -> RunResult:
    log = None if path is None else EventLog(path, f"{task.name}-0")
    settings = GrowConfig(**{"limits": QUICK, **config})  # type: ignore[arg-type]
    return grow(task, settings, controller=TamiyoController(EARLY), log=log)


def test_a_run_grows_within_its_budget_and_says_what_it_cost(tmp_path: Path) -> None:
    """It ends better than its start, under the budget, and its log replays."""
    path = tmp_path / "events.jsonl"
    result = _grow(path=path, compare=True)
    assert result.status == "finished"
    assert result.params_start == 24
    assert result.params_start < result.params_final <= 220
    assert sum(result.states.values()) == 2
    assert result.states["FOSSILIZED"] >= 1
    start, final = result.comparisons
    assert (start.name, start.parameters) == ("static start", 24)
    assert final.name == "static final"
    assert abs(final.parameters - result.params_final) <= 11 / 2  # a unit costs 11
    assert result.test_metric > start.test_metric
    report = replay(path)
    assert report.mismatches == []
    assert report.states == result.states


def test_everything_that_was_spent_counts() -> None:
    """The grown run costs more than its final network's share, and more than the start's."""
    plain, grown = grow(TASK, GrowConfig(), controller=Idle()), _grow()
    per_pass = 2 * (8 * 2 + 2 * 2)
    assert plain.train_flops == per_pass * 3 * plain.steps * 64  # validation is no cost of growing
    assert grown.train_flops > 2 * plain.train_flops


def test_equal_runs_are_equal() -> None:
    """Same seed, same network to the bit and same figures; another seed, another network."""
    first, second, other = _grow(), _grow(), _grow(seed=1)
    assert_same(first.model.state_dict(), second.model.state_dict())
    assert first.train_flops == second.train_flops
    assert first.test_metric == second.test_metric
    names = first.model.state_dict().keys() & other.model.state_dict().keys()
    assert not all(
        torch.equal(first.model.state_dict()[n], other.model.state_dict()[n]) for n in names
    )


def test_a_run_leaves_the_callers_random_stream_alone() -> None:
    """Kasmina draws from counters, never from the stream."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    _grow(epochs=12)
    assert torch.equal(before, torch.get_rng_state())


def test_stop_ends_the_run_in_order(tmp_path: Path) -> None:
    """The log gets its last line and the figures are those of the network as it stands."""
    asked = iter([False] * 30 + [True] * 10_000)
    path = tmp_path / "events.jsonl"
    result = grow(
        TASK,
        GrowConfig(compare=True),
        controller=TamiyoController(),
        log=EventLog(path, "products-0"),
        stop=lambda: next(asked),
    )
    assert result.status == "interrupted"
    assert result.steps == 30
    assert result.comparisons == ()
    assert read_log(path)[-1]["status"] == "interrupted"


def test_the_folded_result_scores_the_same() -> None:
    """What is kept as a plain model is what was tested."""
    result = _grow()
    plain = fold(result.model)
    test = TASK.build_data(0).test()
    assert evaluate(TASK, plain, test)[1] == result.test_metric


def test_a_task_without_widths_is_compared_with_its_own_architecture() -> None:
    """The grown network, initialised afresh, has exactly its parameters."""
    task = replace(TASK, widths=False, default_width=None)
    result = _grow(task, compare=True)
    _, final = result.comparisons
    assert final.name == "static grown architecture"
    assert final.parameters == result.params_final


def test_a_budget_below_the_start_is_refused() -> None:
    """The message says what is needed."""
    with pytest.raises(KasminaError) as caught:
        _grow(budget=10)
    assert str(caught.value) == (
        "the budget of 10 parameters is below the start network's 24; give --budget 24 or more, "
        "or a smaller --width"
    )


class _Without:
    """Data with splits taken away."""

    def __init__(self, validation: list[Batch], batches: int) -> None:
        self.train = TASK.build_data(0).train
        if not batches:
            self.train = _Epochless()
        self._validation = validation

    def validation(self) -> list[Batch]:
        return self._validation

    def test(self) -> list[Batch]:
        return []


class _Epochless:
    """Training data without a batch."""

    batches_per_epoch = 0

    def next_batch(self) -> Batch:
        raise AssertionError("there is none")

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        pass


NO_VALIDATION = (
    "task 'products': the validation split is empty; growth is judged on validation data, so give "
    "the task some"
)


@pytest.mark.parametrize(
    ("validation", "batches", "message"),
    [
        ([], 6, NO_VALIDATION),
        ([(torch.zeros(0, 8), torch.zeros(0).long())], 6, NO_VALIDATION),
        (
            [(torch.zeros(1, 8), torch.zeros(1).long())],
            0,
            "task 'products': an epoch of its training data has 0 batches; it must have 1 or more",
        ),
    ],
)
def test_empty_data_are_refused(validation: list[Batch], batches: int, message: str) -> None:
    """There is nothing to learn from, or growth could not be judged."""
    task = replace(TASK, build_data=lambda seed: _Without(validation, batches))
    with pytest.raises(KasminaError) as error:
        _grow(task)
    assert str(error.value) == message


def test_a_loss_that_is_nan_from_the_start_is_named() -> None:
    """No cohort is to blame."""

    def broken(output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target) * torch.nan

    with pytest.raises(NonFiniteLoss, match="no seed is on trial"):
        _grow(replace(TASK, loss=broken))


def test_a_run_that_fails_says_so_in_its_log(tmp_path: Path) -> None:
    """The last line has the status, and what had grown until then."""
    calls = iter(range(10_000))

    def breaks(output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target) * (torch.nan if next(calls) > 20 else 1)

    path = tmp_path / "events.jsonl"
    with pytest.raises(NonFiniteLoss):
        _grow(replace(TASK, loss=breaks), path=path)
    last = read_log(path)[-1]
    assert (last.kind, last["status"], last["architecture"]) == ("run_finished", "failed", [])
    assert last["error"].startswith("NonFiniteLoss: the training loss is nan")


def test_limits_reach_the_run() -> None:
    """With a limit that nothing passes, nothing is kept."""
    limits: Mapping[str, float] = {"min_validation_gain": 1.0}
    result = _grow(limits=limits)
    assert result.params_final == result.params_start
    assert "FOSSILIZED" not in result.states

"""The task's own rules: field ranges, evaluation, the default optimizer."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from kasmina import tasks
from kasmina.growth.task import Task, adam_cosine, adamw_cosine, evaluate


@pytest.fixture
def task() -> Task:
    """The smallest built-in task."""
    return tasks.find("digits")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "layout",
            (8,),
            (
                "task 'digits': layout (8,) is neither (channels, length), (channels, height, width) "
                "nor ('sequence', tokens, features) of positive sizes; use None for plain features"
            ),
        ),
        (
            "layout",
            (1, 0),
            (
                "task 'digits': layout (1, 0) is neither (channels, length), (channels, height, width) "
                "nor ('sequence', tokens, features) of positive sizes; use None for plain features"
            ),
        ),
        ("default_epochs", 0, "task 'digits': default_epochs is 0; it must be 1 or more"),
        (
            "default_width",
            None,
            (
                "task 'digits': widths=True but default_width=None; a task with widths has a default, "
                "one without has None"
            ),
        ),
    ],
)
def test_a_field_out_of_range_is_refused(
    task: Task, field: str, value: object, message: str
) -> None:
    """The message names task, field and what is legal."""
    with pytest.raises(ValueError, match="task 'digits'") as caught:
        dataclasses.replace(task, **{field: value})  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_layout_may_be_one_of_tokens(task: Task) -> None:
    """As a site's may."""
    layout = ("sequence", 8, 8)
    assert dataclasses.replace(task, layout=layout).layout == layout


def test_evaluation_weighs_samples_not_batches(task: Task) -> None:
    """Uneven batches give what one batch of all would give."""
    (x, y), *_ = task.build_data(0).validation()
    model = task.build_model(0)
    whole = evaluate(task, model, [(x, y)])
    parts = evaluate(task, model, [(x[:7], y[:7]), (x[7:], y[7:])])
    assert whole == pytest.approx(parts, rel=1e-6)  # float32 means of other groups


def test_evaluation_leaves_the_model_as_it_was(task: Task) -> None:
    """Every module keeps its mode, also after an error, and no gradient is kept."""
    model = nn.Sequential(nn.Dropout(0.5), task.build_model(0))
    model.train()
    model[1].eval()
    x = torch.zeros(3, 64)
    evaluate(task, model, [(x, torch.zeros(3, dtype=torch.int64))])
    with pytest.raises(IndexError):
        evaluate(task, model, [(x, torch.full((3,), 11))])
    assert model.training
    assert model[0].training
    assert not model[1].training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_to_evaluate_is_nan(task: Task) -> None:
    """A task without a test split has no test figure."""
    assert all(map(math.isnan, evaluate(task, task.build_model(0), [])))


def test_the_default_schedule_is_a_cosine_to_zero() -> None:
    """From 1e-2 to 0, and 0 after that."""
    weight = nn.Parameter(torch.ones(1))
    optimizer, scheduler = adam_cosine([weight], 100)
    rates = []
    for _ in range(110):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [0.01 * 0.5 * (1 + math.cos(math.pi * min(step, 100) / 100)) for step in range(110)]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_the_same_schedule_with_weight_decay() -> None:
    """What has no gradient of its own shrinks by rate times decay."""
    weight = nn.Parameter(torch.ones(1))
    optimizer, scheduler = adamw_cosine([weight], 2, decay=0.1)
    for _ in range(3):
        weight.grad = torch.zeros(1)
        optimizer.step()
        scheduler.step()
    assert float(weight.detach()) == pytest.approx((1 - 0.01 * 0.1) * (1 - 0.005 * 0.1))


def test_the_default_schedule_rewinds() -> None:
    """Its state holds all that the next rate depends on."""

    def rates(steps: int, state: dict[str, Any] | None) -> tuple[list[float], dict[str, Any]]:
        optimizer, scheduler = adam_cosine([nn.Parameter(torch.ones(1))], 20)
        if state is not None:
            scheduler.load_state_dict(state)
        seen = []
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
            seen.append(float(scheduler.get_last_lr()[0]))
        return seen, scheduler.state_dict()

    first, state = rates(7, None)
    assert rates(5, state)[0] == rates(12, None)[0][7:]
    assert first == rates(12, None)[0][:7]

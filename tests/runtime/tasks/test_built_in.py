"""The built-in tasks: splits, hosts and figures as the anchors have them."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kasmina import tasks
from kasmina.growth.task import Task, evaluate
from kasmina.sites import Garden, morph
from kasmina.tasks import chars
from kasmina.tasks.data import BadData
from tests.helpers import run_python

NAMES = list(tasks.BUILT_IN)


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    """Each built-in task."""
    return tasks.find(request.param)


def parameters(model: nn.Module) -> list[Tensor]:
    """All values of a model."""
    return [parameter.detach() for parameter in model.parameters()]


def test_the_model_depends_on_the_seed_alone(task: Task) -> None:
    """Same seed, same parameters; another seed, others; the caller's stream is not touched."""
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first, again, other = (task.build_model(seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    assert all(map(torch.equal, parameters(first), parameters(again)))
    assert not all(map(torch.equal, parameters(first), parameters(other)))


def test_the_data_touches_no_global_stream(task: Task) -> None:
    """The generator of MNIST-1D seeds Python's and NumPy's, which are given back."""
    random.seed(1)
    np.random.seed(1)
    if task.name == "mnist1d":
        sys.modules["kasmina.tasks.mnist1d"]._splits.cache_clear()
    task.build_data(0).train.next_batch()
    drawn = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    assert drawn == (random.random(), np.random.rand())


def test_every_batch_fits_the_model(task: Task) -> None:
    """One training batch, and all of validation and test, give a finite loss and a metric."""
    data, model = task.build_data(0), task.build_model(0)
    x, y = data.train.next_batch()
    loss = task.loss(model(x), y)
    assert loss.dim() == 0
    for batches in (data.validation(), data.test()):
        loss_value, metric = evaluate(task, model, batches)
        assert 0 < loss_value < 10
        assert 0 <= metric <= 1


def test_splits_do_not_depend_on_the_seed(task: Task) -> None:
    """Only the order of training batches does."""
    first, second = task.build_data(0), task.build_data(1)
    for batches, others in (
        (first.test(), second.test()),
        (first.validation(), second.validation()),
    ):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, others, strict=True))
    assert not torch.equal(first.train.next_batch()[0], second.train.next_batch()[0])


def test_the_width_can_be_chosen(task: Task) -> None:
    """Each built-in task has widths, and a wider network has more parameters."""
    assert task.widths
    sizes = [sum(p.numel() for p in task.build_model(0, width).parameters()) for width in (2, 3, 8)]
    assert sizes == sorted(set(sizes))
    default = task.build_model(0, task.default_width)
    assert all(map(torch.equal, parameters(default), parameters(task.build_model(0))))


def test_the_default_sites_are_in_the_model(task: Task) -> None:
    """The start network can be morphed at them, and computes what it did."""
    model, (x, _) = task.build_model(0), task.build_data(0).validation()[0]
    before = model(x)
    garden = Garden.of(morph(model, sites=task.sites(), example=x))
    assert len(garden.state) > 0
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("name", "start", "budget", "steps", "sizes", "layout"),
    [
        ("digits", 330, (32, 3466), 1995, (270, 270), (1, 8, 8)),
        ("mnist1d", 1098, (64, 7434), 5985, (500, 1000), (1, 40)),
    ],
)
def test_the_anchors_are_met(
    name: str,
    start: int,
    budget: tuple[int, int],
    steps: int,
    sizes: tuple[int, int],
    layout: tuple[int, ...],
) -> None:
    """Sizes of networks, splits and runs are those of the figures that we compare with."""
    task = tasks.find(name)
    data = task.build_data(0)
    width, parameters_then = budget
    assert sum(p.numel() for p in task.build_model(0).parameters()) == start
    assert sum(p.numel() for p in task.build_model(0, width).parameters()) == parameters_then
    assert task.default_budget == parameters_then
    assert data.train.batches_per_epoch * task.default_epochs == steps
    assert sum(len(y) for _, y in data.validation()) == sizes[0]
    assert sum(len(y) for _, y in data.test()) == sizes[1]
    assert task.layout == layout


def test_digits_are_scaled() -> None:
    """Ink from 0 to 1."""
    x, _ = tasks.find("digits").build_data(0).test()[0]
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)


def test_chars_targets_are_the_next_characters() -> None:
    """Each target is the input one place on, and windows follow on one another."""
    batches = tasks.find("chars").build_data(0).validation()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(x[1:, 0], y[:-1, -1])
    text = "".join(chars.ALPHABET[token - 1] for token in x[:40].flatten().tolist() if token)
    assert "import" in text


def test_chars_does_not_look_ahead() -> None:
    """A later character changes no earlier prediction."""
    model = tasks.find("chars").build_model(0)
    x = torch.zeros(1, chars.CONTEXT, dtype=torch.int64)
    changed = x.clone()
    changed[0, 40] = 7
    one, other = model(x), model(changed)
    assert torch.equal(one[:, :40], other[:, :40])
    assert not torch.equal(one[:, 40:], other[:, 40:])


def test_chars_files_are_in_one_split_each(tmp_path: Path) -> None:
    """A tenth of the files each for validation and test; private and other files are left out."""
    for index in range(20):
        (tmp_path / f"m{index:02}.py").write_text(chr(ord("a") + index) * 200)
    (tmp_path / "_private.py").write_text("?" * 200)
    (tmp_path / "notes.txt").write_text("!" * 200)
    train, validation, test = chars._splits(tmp_path)
    letters = [
        {chars.ALPHABET[token - 1] for token in part.x.flatten().tolist()}
        for part in (train, validation, test)
    ]
    assert letters[1] <= {"i", "s"}
    assert letters[2] <= {"j", "t"}
    assert not letters[0] & {"i", "s", "j", "t", "?", "!"}


def test_chars_copes_with_odd_bytes(tmp_path: Path) -> None:
    """What is not printable ASCII is token 0."""
    for index in range(10):
        (tmp_path / f"m{index}.py").write_bytes(b"\xff\x00\t\xc3\xa9~\n" * 30)
    train, _, _ = chars._splits(tmp_path)
    assert set(train.x.flatten().tolist()) == {0, 1, chars.VOCABULARY - 1}


def test_chars_needs_sources(tmp_path: Path) -> None:
    """A Python without its sources is told so."""
    with pytest.raises(BadData) as caught:
        chars._splits(tmp_path)
    assert str(caught.value) == (
        f"task 'chars' reads the standard library's sources, but {tmp_path} holds 0 Python files; "
        "it needs 10: use a Python that is installed with its sources"
    )


def test_chars_takes_odd_widths() -> None:
    """An odd width has one head."""
    model = tasks.find("chars").build_model(0, 5)
    assert model(torch.zeros(2, 7, dtype=torch.int64)).shape == (2, 7, chars.VOCABULARY)


@pytest.mark.parametrize(
    ("name", "guess"), [("digit", " (did you mean 'digits'?)"), ("imagenet", "")]
)
def test_an_unknown_task_is_told(name: str, guess: str) -> None:
    """The message lists the tasks and the near one; it is wrong usage."""
    with pytest.raises(tasks.UnknownTask) as caught:
        tasks.find(name)
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"unknown task {name!r}{guess}; built in are digits, mnist1d, chars; your own is named "
        "package.module:function"
    )


def test_the_room_loads_nothing_before_it_is_asked() -> None:
    """Neither torch nor a data set comes with the import."""
    code = (
        "import sys, kasmina.tasks\n"
        "sys.exit(bool({'torch', 'numpy', 'sklearn', 'mnist1d'} & set(sys.modules)))"
    )
    assert run_python(code).returncode == 0


@pytest.mark.parametrize(("name", "package"), [("digits", "sklearn"), ("mnist1d", "mnist1d")])
def test_a_missing_package_is_told_at_once(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`find` itself fails, before any run has begun."""
    tasks.find(name)  # so that the module is there and its cache can be emptied
    sys.modules[f"kasmina.tasks.{name}"]._splits.cache_clear()
    for module in [each for each in sys.modules if each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(tasks.data.MissingPackage, match="pip install 'kasmina\\[tasks\\]'"):
        tasks.find(name)


@pytest.mark.parametrize("name", ["digits", "mnist1d"])
def test_permuted_features_are_the_same_in_another_order(name: str) -> None:
    """In all splits by one permutation; the declared layout stays."""
    module = importlib.import_module(f"kasmina.tasks.{name}")
    plain, permuted = module.task(), module.task(permuted=True)
    assert permuted.layout == plain.layout
    assert permuted.name == f"{name}-permuted"
    (x, y), (other, labels) = (task.build_data(0).test()[0] for task in (plain, permuted))
    assert torch.equal(y, labels)
    assert torch.equal(x.sort(1).values, other.sort(1).values)
    assert not torch.equal(x, other)


def test_variants_have_names_of_their_own() -> None:
    """A log tells which data a run had."""
    from kasmina.tasks import digits, mnist1d

    names = [mnist1d.task(dataset=7).name, mnist1d.task(convolutional=True).name]
    assert [*names, digits.task(split=3).name] == ["mnist1d-7", "mnist1d-cnn", "digits-3"]
    cnn = mnist1d.task(convolutional=True)
    sizes = [sum(p.numel() for p in cnn.build_model(0, w).parameters()) for w in (None, 25)]
    assert sizes == [1570, 5210]
    assert cnn.build_model(0)(torch.zeros(2, 40)).shape == (2, 10)

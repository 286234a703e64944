"""A user's own task: what a function may return, and how each mistake is told."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from kasmina import tasks
from kasmina.growth.task import Task, accuracy, cross_entropy
from kasmina.tasks import user
from kasmina.tasks.data import BadData
from kasmina.tasks.importing import InvalidTask
from kasmina.tasks.loaders import LoaderBatches, LoaderData

GOOD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def net():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

def loader(n, shuffle=False):
    return DataLoader(TensorDataset(torch.randn(n, 4), torch.arange(n) % 3), 5, shuffle=shuffle)

def loss(output, target):
    return nn.functional.cross_entropy(output, target)

def good():
    return net(), (loader(23, True), loader(10)), loss

def tested():
    return {"model": net(), "loaders": [loader(23), loader(10), loader(7)], "loss": loss}
"""

Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the module `mytask` into the working folder; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def put(text: str) -> None:
        (tmp_path / "mytask.py").write_text(text)

    yield put
    sys.modules.pop("mytask", None)


def told(name: str, kind: type[Exception] = InvalidTask) -> str:
    """What the user reads."""
    with pytest.raises(kind) as caught:
        tasks.find(name)
    return str(caught.value)


def test_model_loaders_and_loss_are_a_task(write: Write) -> None:
    """Accuracy is the metric of class indices, every linear map but the last a site."""
    write(GOOD)
    task = tasks.find("mytask:good")
    data, model = task.build_data(0), task.build_model(0)
    x, y = data.train.next_batch()
    assert task.loss(model(x), y).dim() == 0
    assert task.metric is user.default_metric
    assert [site.pattern for site in task.sites()] == ["0"]
    assert (task.name, task.widths, task.default_width) == ("mytask:good", False, None)
    assert sum(len(y) for _, y in data.validation()) == 10
    assert data.test() == []


def test_a_third_loader_is_the_test_split(write: Write) -> None:
    """Three loaders, in a list as well as in a tuple."""
    write(GOOD)
    assert sum(len(y) for _, y in tasks.find("mytask:tested").build_data(0).test()) == 7


def test_a_twin_equals_its_brother(write: Write) -> None:
    """The function is called again, under streams of the seed, and touches none of the caller's."""
    write(GOOD)
    task = tasks.find("mytask:good")
    torch.manual_seed(1)
    first, twin, other = (task.build_model(seed) for seed in (4, 4, 5))
    drawn = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(2))
    assert torch.equal(first[0].weight, twin[0].weight)  # type: ignore[index]
    assert not torch.equal(first[0].weight, other[0].weight)  # type: ignore[index]
    batches = [task.build_data(4).train.next_batch()[0] for _ in range(2)]
    assert torch.equal(*batches)


def test_a_mapping_may_say_more(write: Write) -> None:
    """Metric, sites, layout, epochs and budget are taken over."""
    write(
        GOOD + "\nfrom kasmina.sites import Site\n"
        "def half(output, target): return 0.5\n"
        "def more():\n"
        "    m, l, f = good()\n"
        "    place = Site('2', placement='parallel', seeds=1, blueprint='mlp')\n"
        "    return dict(model=m, loaders=l, loss=f, metric=half, sites=[place], layout=(1, 4),\n"
        "                epochs=3, budget=99)\n"
    )
    task = tasks.find("mytask:more")
    assert task.metric(torch.zeros(1), torch.zeros(1)) == 0.5
    assert [site.pattern for site in task.sites()] == ["2"]
    assert (task.layout, task.default_epochs, task.default_budget) == ((1, 4), 3, 99)


def test_a_task_is_taken_as_it_is(write: Write) -> None:
    """A function may build the `Task` itself."""
    write("from kasmina import tasks\ndef mine(): return tasks.find('digits')\n")
    assert isinstance(tasks.find("mytask:mine"), Task)
    assert tasks.find("mytask:mine").name == "digits"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a b:c", "task 'a b:c' is not of the form package.module:function"),
        ("mytask:", "task 'mytask:' is not of the form package.module:function"),
        ("mytask:a.b", "task 'mytask:a.b' is not of the form package.module:function"),
        (
            "nothere.inside:f",
            (
                "task 'nothere.inside:f': there is no module 'nothere' in the working folder {here} or "
                "on Python's path: mind the spelling, or set PYTHONPATH"
            ),
        ),
        (
            "mytask:godo",
            (
                "task 'mytask:godo': module 'mytask' ({here}/mytask.py) has no function 'godo'; it has "
                "good"
            ),
        ),
        (
            "mytask:xyzzy",
            (
                "task 'mytask:xyzzy': module 'mytask' ({here}/mytask.py) has no function 'xyzzy'; it "
                "has good, loader, loss, net, tested"
            ),
        ),
        ("mytask:nn", "task 'mytask:nn': 'nn' is a module, not a function"),
        (
            "mytask:loader",
            (
                "task 'mytask:loader': the function is called without arguments, but takes (n, "
                "shuffle=False): give them defaults"
            ),
        ),
    ],
)
def test_a_function_that_is_not_there_is_told(
    write: Write, tmp_path: Path, name: str, message: str
) -> None:
    """Form, module, function, near ones, arguments."""
    write(GOOD)
    assert told(name) == message.format(here=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import nothere\n",
            (
                "task 'mytask:f': module 'mytask' raised ModuleNotFoundError: No module named 'nothere' "
                "({here}/mytask.py:1)"
            ),
        ),
        (
            "x = 1\ny = x / 0\n",
            (
                "task 'mytask:f': module 'mytask' raised ZeroDivisionError: division by zero "
                "({here}/mytask.py:2)"
            ),
        ),
        (
            "def g():\n    raise ValueError('no data in the folder')\ndef f():\n    return g()\n",
            (
                "task 'mytask:f': the function raised ValueError: no data in the folder "
                "({here}/mytask.py:2)"
            ),
        ),
        (
            "import torch\ndef f():\n    return torch.zeros(2) @ torch.zeros(3)\n",
            (
                "task 'mytask:f': the function raised RuntimeError: inconsistent tensor size, expected "
                "tensor [2] and src [3] to have the same number of elements, but got 2 and 3 elements "
                "respectively ({here}/mytask.py:3)"
            ),
        ),
    ],
)
def test_code_that_fails_is_told_with_its_line(
    write: Write, tmp_path: Path, text: str, message: str
) -> None:
    """The error of the user's code and the last line of it, not of a library below."""
    write(text)
    assert told("mytask:f") == message.format(here=tmp_path)


LEGAL = (
    "legal are a kasmina.growth.task.Task, (model, loaders, loss), or a mapping with the keys "
    "model, loaders, loss and, if you like, metric, sites, layout, epochs, budget"
)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", f"the function returned None; {LEGAL}"),
        ("net()", f"the function returned a Sequential; {LEGAL}"),
        ("(net(), loss)", f"the function returned a tuple of 2 (Sequential, function); {LEGAL}"),
        ("dict(model=1)", f"the mapping that the function returned lacks loaders, loss; {LEGAL}"),
        (
            "dict(model=1, loaders=2, loss=3, lr=4)",
            f"the mapping that the function returned has 'lr'; {LEGAL}",
        ),
        ("(net, (1, 2), loss)", "'model' is a function; it must be of the type Module"),
        (
            "(net(), loader(9), loss)",
            "'loaders' is a DataLoader; it must be of the type tuple or list",
        ),
        (
            "(net(), [loader(9)], loss)",
            (
                "'loaders' is a list of 1 (DataLoader); legal are (train, validation) and (train, "
                "validation, test)"
            ),
        ),
        (
            "(net(), (loader(9), loader(9)), 'mse')",
            "'loss' is a str; legal is a function of (output, target)",
        ),
        (
            "dict(tested(), epochs='9')",
            "'epochs' is a str; it must be of the type int",
        ),
        ("dict(tested(), budget=0.5)", "'budget' is a float; it must be of the type int or None"),
        (
            "(net(), (loader(9), loader(9)), lambda output, target: output)",
            "the loss is a tensor of shape [5, 3]; legal is a 0-d tensor, a mean",
        ),
        (
            "dict(tested(), metric=lambda output, target: 2.0)",
            "the metric is 2.0; legal is a float from 0 to 1, where higher is better",
        ),
        (
            "(nn.Linear(4, 3), (loader(9), loader(9)), loss)",
            (
                "the model has 1 linear maps, and sites are placed at all but the last: return a "
                "mapping with 'sites' that says where it may grow"
            ),
        ),
        (
            "dict(tested(), epochs=0)",
            "default_epochs is 0; it must be 1 or more",
        ),
    ],
)
def test_the_wrong_thing_is_told(write: Write, returned: str, message: str) -> None:
    """What came, and what is legal."""
    write(f"{GOOD}\ndef f():\n    return {returned}\n")
    text = told("mytask:f")
    assert re.sub(r" \(\S+\.py:\d+\)$", "", text) == f"task 'mytask:f': {message}"


def test_a_model_that_does_not_fit_its_data_is_told(write: Write, tmp_path: Path) -> None:
    """The shape that it got and what torch said."""
    write(f"{GOOD}\ndef f():\n    return nn.Sequential(nn.Linear(5, 3)), good()[1], loss\n")
    text = told("mytask:f")
    assert text.startswith(
        "task 'mytask:f': the model, on inputs of shape [5, 4], raised RuntimeError: mat1 and mat2"
    )


def test_a_loss_that_fails_is_told(write: Write, tmp_path: Path) -> None:
    """With the shape of the targets and the line."""
    write(f"{GOOD}\ndef bad(o, t):\n    raise TypeError('no')\ndef f(): return *good()[:2], bad\n")
    assert told("mytask:f") == (
        f"task 'mytask:f': the loss, on targets of shape [5], raised TypeError: no "
        f"({tmp_path}/mytask.py:{GOOD.count(chr(10)) + 3})"
    )


def test_one_model_for_all_calls_is_refused(write: Write) -> None:
    """Twins would share their parameters."""
    write(f"{GOOD}\nonly = net()\ndef f():\n    return only, good()[1], loss\n")
    task = tasks.find("mytask:f")
    with pytest.raises(InvalidTask) as caught:
        task.build_model(0)
    assert str(caught.value) == (
        "task 'mytask:f': two calls returned the same model, so a twin would share its parameters; "
        "build a new one in each call"
    )


def test_a_width_is_refused(write: Write) -> None:
    """A function builds one width."""
    write(GOOD)
    with pytest.raises(InvalidTask) as caught:
        tasks.find("mytask:good").build_model(0, 8)
    assert str(caught.value) == (
        "task 'mytask:good': width 8 was asked for, but a user's function builds one width: leave "
        "--width out, or return a Task with widths=True"
    )


def test_the_working_folder_is_searched_once(write: Write, tmp_path: Path) -> None:
    """It is put in front of Python's path and not again."""
    write(GOOD)
    tasks.find("mytask:good")
    tasks.find("mytask:good")
    assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.parametrize(
    ("output", "target", "score"),
    [
        (torch.eye(3), torch.tensor([0, 1, 1]), 2 / 3),
        (torch.eye(3).expand(2, 3, 3), torch.tensor([[0, 1, 2], [0, 0, 0]]), 4 / 6),
        (torch.eye(3).view(1, 3, 3, 1).expand(1, 3, 3, 2), torch.tensor([[[0, 0], [1, 1], [0, 0]]]), 4 / 6),
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]), 1.0),
        (torch.tensor([2.0, 2.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]), 0.0),
        (torch.tensor([9.0, 9.0, 9.0]), torch.tensor([1.0, 2.0, 3.0]), 0.0),
        (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]), 0.0),
    ],
)  # fmt: skip
def test_the_default_metric(output: Tensor, target: Tensor, score: float) -> None:
    """Accuracy of class indices, in either layout; explained variance of values."""
    assert user.default_metric(output, target) == pytest.approx(score, abs=1e-12)


def test_no_metric_for_odd_shapes(write: Write) -> None:
    """The user is asked for one."""
    with pytest.raises(ValueError, match="return a mapping with a 'metric' of your own") as caught:
        user.default_metric(torch.zeros(2, 3), torch.zeros(2))
    assert str(caught.value).startswith(
        "no metric is known for outputs [2, 3] and targets [2] of torch.float32:"
    )


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Ten samples, augmented with each of the three global streams."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = float(torch.rand(())) + random.random() + float(np.random.rand())
        return torch.tensor([index + noise / 10]), torch.tensor(index % 3)


def shuffled(own_generator: bool) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader that shuffles, from the global stream or from a generator of its own."""
    generator = torch.Generator().manual_seed(5) if own_generator else None
    return DataLoader(Noisy(), batch_size=3, shuffle=True, generator=generator)


@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("taken", [0, 2, 4, 9])
def test_a_loader_has_a_cursor(own_generator: bool, taken: int) -> None:
    """From a cursor another instance draws the same, augmentation included, to the bit."""
    first = LoaderBatches(shuffled(own_generator), 3, "train data")
    for _ in range(taken):
        first.next_batch()
    second = LoaderBatches(shuffled(own_generator), 3, "train data")
    second.load_state_dict(first.state_dict())
    for _ in range(6):
        (x, y), (other_x, other_y) = first.next_batch(), second.next_batch()
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_each_epoch_of_a_loader_is_shuffled_anew() -> None:
    """And by the seed; no sample comes twice in an epoch."""

    def epoch(batches: LoaderBatches) -> list[int]:
        return [int(v) for _ in range(4) for v in batches.next_batch()[0].flatten()]

    first = LoaderBatches(shuffled(False), 3, "train data")
    orders = [epoch(first), epoch(first), epoch(LoaderBatches(shuffled(False), 4, "train data"))]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_a_list_of_batches_is_a_loader() -> None:
    """And so is anything that can be iterated again, also without a length."""

    class Endless:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter([(torch.ones(2, 1), torch.zeros(2))] * 4)

    pairs = [(torch.ones(2, 1), torch.zeros(2))] * 3
    data = LoaderData((pairs, pairs), seed=0, where="mytask:f")
    assert data.train.batches_per_epoch == 3
    assert LoaderBatches(Endless(), 0, "train data").batches_per_epoch == 4


ONE = (torch.ones(2, 1), torch.zeros(2))


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (
            5,
            [ONE],
            (
                "task 'm:f': the train loader is a int; legal is an iterable of (x, y) batches, e.g. a "
                "DataLoader"
            ),
        ),
        (
            [ONE],
            iter([ONE]),
            (
                "task 'm:f': the validation loader is a list_iterator that ends after one pass; give "
                "something that can be iterated again, e.g. a DataLoader or a list of batches"
            ),
        ),
        ([], [ONE], "task 'm:f': train data: the loader gives no batch; it must give one or more"),
        (
            [ONE],
            [],
            "task 'm:f': validation data: the loader gives no batch; it must give one or more",
        ),
        (
            [ONE],
            [{"x": ONE[0], "y": ONE[1]}],
            (
                "task 'm:f': validation data, batch 0 is a dict with the keys x, y; legal is a pair (x, "
                "y) of two tensors"
            ),
        ),
        (
            [ONE],
            [ONE, (ONE[0], torch.zeros(3))],
            (
                "task 'm:f': validation data, batch 1 has 2 inputs and 3 targets; there must be one "
                "target for each input, and one or more of them"
            ),
        ),
        (
            [ONE],
            [ONE, (torch.tensor([[1.0], [torch.nan]]), ONE[1])],
            (
                "task 'm:f': validation data, batch 1: sample 3, element [0] is nan; every value must "
                "be finite: mend or drop that sample"
            ),
        ),
    ],
)
def test_a_loader_that_is_not_one_is_told(train: object, validation: object, message: str) -> None:
    """Split, batch and sample are named."""
    with pytest.raises(BadData) as caught:
        LoaderData((train, validation), seed=0, where="m:f")  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_nan_in_a_training_batch_is_told_when_it_is_drawn() -> None:
    """Epoch, batch, and the sample in it."""
    pairs = [ONE, (ONE[0], torch.tensor([0.0, torch.inf]))]
    batches = LoaderBatches(pairs, 0, "task 'm:f': train data")
    batches.next_batch()
    with pytest.raises(BadData) as caught:
        batches.next_batch()
    assert str(caught.value) == (
        "task 'm:f': train data, epoch 0, batch 1: sample 1 is inf; every value must be finite: "
        "mend or drop that sample"
    )


def test_an_epoch_that_ends_early_is_told() -> None:
    """A length that was promised must be kept."""

    class Liar:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter([ONE, ONE])

    batches = LoaderBatches(Liar(), 0, "train data")
    batches.next_batch()
    batches.next_batch()
    with pytest.raises(BadData) as caught:
        batches.next_batch()
    assert str(caught.value) == (
        "train data: epoch 0 ended after 2 of 3 batches; every epoch must have as many"
    )


def test_helpers_of_a_task_can_be_used_by_a_user() -> None:
    """`cross_entropy` and `accuracy` take both kinds of outputs."""
    flat, sequence = torch.eye(3), torch.eye(3).expand(2, 3, 3)
    target = torch.tensor([0, 1, 1])
    assert accuracy(flat, target) == pytest.approx(2 / 3)
    assert float(cross_entropy(sequence, target.expand(2, 3))) == pytest.approx(
        float(nn.functional.cross_entropy(flat, target))
    )


def test_a_loader_over_tensors_is_usual() -> None:
    """The DataLoader of a TensorDataset."""
    loader = DataLoader(TensorDataset(torch.ones(4, 2), torch.zeros(4)), batch_size=2)
    assert LoaderData((loader, loader, loader), seed=0, where="m:f").test()[1][0].shape == (2, 2)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            "net(), (loader(9), loader(9)), lambda o, t: loss(o.detach(), t)",
            "the loss does not depend on any parameter that trains",
        ),
        (
            "net().requires_grad_(False), (loader(9), loader(9)), loss",
            "the loss does not depend on any parameter that trains",
        ),
        (
            "dict(model=net(), loaders=(loader(9), loader(9)), loss=loss, sites=['0'])",
            "legal are kasmina.Site, like kasmina.Site('blocks.*')",
        ),
        (
            "nn.Sequential(nn.LazyLinear(3)), (loader(9), loader(9)), loss",
            "the model has parameters that are not initialised yet: 0.weight, 0.bias; run it once",
        ),
    ],
    ids=["loss without graph", "frozen", "site is a string", "lazy"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_could_never_train_is_told(write: Write, returned: str, message: str) -> None:
    """Before the run, with what to do."""
    write(f"{GOOD}\ndef task():\n    return {returned}\n")
    with pytest.raises(InvalidTask, match=re.escape(message)):
        tasks.find("mytask:task")


def test_a_built_in_function_is_no_task() -> None:
    """It does not say what it takes."""
    with pytest.raises(InvalidTask, match="is built in and does not say what it takes"):
        tasks.find("torch:rand")

"""Data in memory: the cursor, the shuffle, and what is refused."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from kasmina.growth.task import seeded
from kasmina.tasks.data import (
    BadData,
    MissingPackage,
    ShuffledBatches,
    Split,
    SplitData,
    check_finite,
    check_labels,
    optional,
)


def split(name: str, n: int) -> Split:
    """Sample `i` holds `i`, so that an order can be read off."""
    return Split(name, torch.arange(n, dtype=torch.float32).unsqueeze(1), torch.arange(n))


def data(seed: int = 0, n: int = 10, batch_size: int = 3) -> SplitData:
    """Ten training samples in batches of three."""
    return SplitData(
        split("train", n),
        split("validation", 4),
        split("test", 5),
        batch_size=batch_size,
        seed=seed,
    )


def drawn(source: SplitData, batches: int) -> list[list[int]]:
    """The targets of the next batches."""
    return [source.train.next_batch()[1].tolist() for _ in range(batches)]


def test_an_epoch_shows_no_sample_twice() -> None:
    """What is left over after the last whole batch is dropped."""
    source = data()
    assert source.train.batches_per_epoch == 3
    seen = [sample for batch in drawn(source, 3) for sample in batch]
    assert len(set(seen)) == len(seen) == 9


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    """And the same seed gives the same one again."""
    first, second = data(seed=1), data(seed=1)
    orders = [drawn(first, 3), drawn(first, 3), drawn(data(seed=2), 3)]
    assert drawn(second, 3) == orders[0]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_inputs_and_targets_stay_together() -> None:
    """A batch is rows of both."""
    x, y = data().train.next_batch()
    assert x.squeeze(1).long().tolist() == y.tolist()


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 7])
def test_a_cursor_is_all_that_resume_needs(taken: int) -> None:
    """From a cursor another instance gives what the first would have given."""
    first, second = data(), data()
    drawn(first, taken)
    cursor = first.train.state_dict()
    assert cursor == {"epoch": taken // 3, "index": taken % 3}
    second.train.load_state_dict(cursor)
    assert drawn(second, 5) == drawn(first, 5)


@pytest.mark.parametrize(
    ("cursor", "message"),
    [
        ({"epoch": 0}, "a data cursor has the keys epoch and index, not ['epoch']"),
        (
            {"epoch": 0, "index": 3},
            (
                "the data cursor (epoch 0, index 3) is not in this data, whose epochs have 3 batches: "
                "was it saved with another batch size or data set?"
            ),
        ),
        (
            {"epoch": -1, "index": 0},
            (
                "the data cursor (epoch -1, index 0) is not in this data, whose epochs have 3 batches: "
                "was it saved with another batch size or data set?"
            ),
        ),
    ],
)
def test_a_wrong_cursor_is_refused(cursor: dict[str, int], message: str) -> None:
    """The message says what is expected."""
    with pytest.raises(ValueError, match="data cursor") as caught:
        data().train.load_state_dict(cursor)
    assert str(caught.value) == message


def test_a_batch_is_never_larger_than_the_split() -> None:
    """Few samples make one batch."""
    source = data(n=2, batch_size=64)
    assert source.train.batches_per_epoch == 1
    assert sorted(drawn(source, 1)[0]) == [0, 1]


@pytest.mark.parametrize(
    ("samples", "settings", "message"),
    [
        (0, {}, "train data: there is no sample; there must be one or more"),
        (3, {"batch_size": 0}, "train data: batch_size=0, most=None; each must be 1 or more"),
        (3, {"most": 0}, "train data: batch_size=2, most=0; each must be 1 or more"),
    ],
)
def test_data_without_a_batch_are_refused(
    samples: int, settings: dict[str, int], message: str
) -> None:
    """Not by a division by zero, an epoch later."""
    split = Split("train", torch.zeros(samples, 2), torch.zeros(samples).long())
    with pytest.raises(BadData) as error:
        ShuffledBatches(split, **{"batch_size": 2, "seed": 0, **settings})
    assert str(error.value) == message


def test_validation_and_test_keep_their_order() -> None:
    """All samples, in order, each time."""
    source = data()
    assert torch.cat([y for _, y in source.validation()]).tolist() == [0, 1, 2, 3]
    assert torch.cat([y for _, y in source.test()]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    """The message names place, sample and element."""
    x = torch.zeros(5, 2, 3)
    x[2, 1, 0] = value
    with pytest.raises(BadData) as caught:
        check_finite("train data", x, first=100)
    assert str(caught.value) == (
        f"train data: sample 102, element [1, 0] is {value}; every value must be finite: mend or "
        "drop that sample"
    )


def test_a_target_that_is_not_finite_has_no_element() -> None:
    """One number a sample is named by its sample."""
    with pytest.raises(BadData) as caught:
        check_finite("test data", torch.tensor([0.0, math.nan]))
    assert str(caught.value).startswith("test data: sample 1 is nan;")


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    """The message names the sample, the label and what is legal; also in sequences of labels."""
    for labels in (torch.tensor([3, label]), torch.tensor([[3, 4], [5, label]])):
        with pytest.raises(BadData) as caught:
            check_labels("validation data", labels, classes=10)
        assert str(caught.value) == (
            f"validation data: sample 1 has the label {label}; legal are 0 to 9"
        )


def test_a_split_is_checked_as_a_whole() -> None:
    """Values and labels; a good one is returned."""
    good = Split("train", torch.ones(3, 2), torch.tensor([0, 1, 2]))
    assert good.checked(classes=3) is good
    with pytest.raises(BadData, match="train data: sample 2 has the label 2"):
        good.checked(classes=2)
    with pytest.raises(BadData, match="train data: sample 0, element"):
        Split("train", good.x / 0.0, good.y).checked(classes=3)


def test_a_missing_package_names_the_command() -> None:
    """The task and the module are named too."""
    with pytest.raises(MissingPackage) as caught:
        optional("no_such_package_of_ours.data", "mnist1d")
    assert str(caught.value) == (
        "task 'mnist1d' needs the module 'no_such_package_of_ours', which is not installed: pip "
        "install 'kasmina[tasks]'"
    )


def streams() -> tuple[float, float, Tensor]:
    """What the three global streams give next; they are put back."""
    with seeded_as_is():
        return random.random(), float(np.random.rand()), torch.rand(2)


class seeded_as_is:  # noqa: N801  reads as a statement
    """Puts the global streams back to where they were."""

    def __enter__(self) -> None:
        self.state = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def __exit__(self, *_: object) -> None:
        python, legacy, tensor = self.state
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(tensor)


def test_seeded_gives_the_streams_back() -> None:
    """Inside the seed rules, outside nothing has happened, also after an error."""
    before = streams()
    inside = []
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), seeded(2**40):
            inside.append((random.random(), float(np.random.rand()), torch.rand(2).tolist()))
            raise ZeroDivisionError
    after = streams()
    assert inside[0] == inside[1]
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])

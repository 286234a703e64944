"""Data in memory with a cursor, and the checks that every batch has passed before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.growth.task import Batch
from kasmina.lifecycle.randomness import generator

EVALUATION_BATCH = 512  # samples of one validation or test batch


class BadData(KasminaError, ValueError):
    """A sample that cannot be learned from."""


class MissingPackage(KasminaError, ImportError):
    """The package that brings a task's data is not installed."""


def optional(module: str, task: str) -> ModuleType:
    """Import a module of an optional package.

    Raises:
        MissingPackage: naming the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"task {task!r} needs the module {error.name!r}, which is not installed: "
            "pip install 'kasmina[tasks]'"
        ) from error


def check_finite(place: str, values: Tensor, first: int = 0) -> None:
    """Refuse NaN and infinities.

    Args:
        place: the split and, where it has one, the batch, for the message.
        values: inputs or targets [N, ...]; integers always pass.
        first: index of the first sample within the place.

    Raises:
        BadData: naming place, sample and element.
    """
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return
    sample, *element = torch.nonzero(~torch.isfinite(values))[0].tolist()
    value = values[(sample, *element)].item()
    which = f", element {element}" if element else ""
    raise BadData(
        f"{place}: sample {first + sample}{which} is {value}; every value must be finite: "
        "mend or drop that sample"
    )


def check_labels(place: str, labels: Tensor, classes: int) -> None:
    """Refuse class indices outside 0 to `classes` - 1.

    Raises:
        BadData: naming place, sample and label.
    """
    wrong = torch.nonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        sample = wrong[0].tolist()
        raise BadData(
            f"{place}: sample {sample[0]} has the label {int(labels[tuple(sample)])}; "
            f"legal are 0 to {classes - 1}"
        )


@dataclass(frozen=True, slots=True)
class Split:
    """Inputs and targets of one split, sample by sample along the first axis; never written to."""

    name: str
    x: Tensor  # [N, ...]
    y: Tensor  # [N, ...]

    def checked(self, classes: int) -> Split:
        """Return the split itself, once its values and labels are legal."""
        check_finite(f"{self.name} data", self.x)
        check_labels(f"{self.name} data", self.y, classes)
        return self

    def batches(self, size: int = EVALUATION_BATCH) -> list[Batch]:
        """Cut the split into batches in its own order."""
        return list(zip(torch.split(self.x, size), torch.split(self.y, size), strict=True))


@dataclass(slots=True)
class ShuffledBatches:
    """Training batches of one size, reshuffled each epoch by a permutation of (seed, epoch).

    What an epoch leaves over after its last whole batch is dropped; the next epoch's permutation
    brings it back. `most` cuts the epochs of a large split to so many batches: a tick of the
    lifecycle should not wait for a pass over everything.

    Raises:
        BadData: there is no sample, or no batch.
    """

    split: Split
    batch_size: int
    seed: int
    most: int | None = None
    epoch: int = 0
    index: int = 0
    _order: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.split.x):
            raise BadData(f"{self.split.name} data: there is no sample; there must be one or more")
        if self.batch_size < 1 or (self.most is not None and self.most < 1):
            raise BadData(
                f"{self.split.name} data: batch_size={self.batch_size}, most={self.most}; each must be "
                "1 or more"
            )
        self.batch_size = min(self.batch_size, len(self.split.x))
        self._order = self._permutation()

    @property
    def batches_per_epoch(self) -> int:
        """How many whole batches an epoch has."""
        whole = len(self.split.x) // self.batch_size
        return whole if self.most is None else min(whole, self.most)

    def next_batch(self) -> Batch:
        """Return the batch under the cursor and move the cursor on."""
        start = self.index * self.batch_size
        rows = self._order[start : start + self.batch_size]
        self.index += 1
        if self.index == self.batches_per_epoch:
            self.epoch, self.index = self.epoch + 1, 0
            self._order = self._permutation()
        return self.split.x[rows], self.split.y[rows]

    def state_dict(self) -> dict[str, int]:
        """Return the cursor."""
        return {"epoch": self.epoch, "index": self.index}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Move the cursor; raises ValueError for what is no cursor of this data."""
        self.epoch, self.index = legal_cursor(state, self.batches_per_epoch)
        self._order = self._permutation()

    def _permutation(self) -> Tensor:
        shuffle = generator(self.seed, "data", 0, self.epoch, "shuffle")
        return torch.randperm(len(self.split.x), generator=shuffle)


def legal_cursor(state: Mapping[str, int], batches_per_epoch: int) -> tuple[int, int]:
    """Read (epoch, index) from a cursor.

    Raises:
        ValueError: it is none, or it is one of other data.
    """
    if set(state) != {"epoch", "index"}:
        raise ValueError(f"a data cursor has the keys epoch and index, not {sorted(state)}")
    epoch, index = state["epoch"], state["index"]
    if epoch < 0 or not 0 <= index < batches_per_epoch:
        raise ValueError(
            f"the data cursor (epoch {epoch}, index {index}) is not in this data, whose epochs "
            f"have {batches_per_epoch} batches: was it saved with another batch size or data set?"
        )
    return epoch, index


class SplitData:
    """`kasmina.growth.task.Data` over three splits in memory."""

    def __init__(
        self,
        train: Split,
        validation: Split,
        test: Split,
        *,
        batch_size: int,
        seed: int,
        most: int | None = None,
    ) -> None:
        self.train = ShuffledBatches(train, batch_size, seed, most)
        self._validation, self._test = validation, test

    def validation(self) -> list[Batch]:
        """Return the validation split in its own order."""
        return self._validation.batches()

    def test(self) -> list[Batch]:
        """Return the test split in its own order."""
        return self._test.batches()

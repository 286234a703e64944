"""A user's loaders as data with a cursor.

A loader shuffles and augments with global random streams, which know no cursor. Here each epoch
and each batch is drawn under streams seeded for it, so that a cursor can be reached again by
drawing up to it. That takes as long as the batches that it skips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import cast

import torch
from torch import Tensor

from kasmina.growth.task import Batch, seeded
from kasmina.lifecycle.randomness import key
from kasmina.tasks.data import BadData, check_finite, legal_cursor

SPLITS = ("train", "validation", "test")
_END = object()


class LoaderData:
    """`kasmina.growth.task.Data` over iterables of (x, y) batches.

    Args:
        loaders: (train, validation) or (train, validation, test); each can be iterated again.
        seed: orders the training batches, as far as the loader draws from global streams or from
            the `generator` of itself or its sampler.
        where: name of the task, for messages.

    Raises:
        BadData: a loader is empty, ends for good after one pass, or gives something other than
            pairs of finite tensors.
    """

    def __init__(self, loaders: tuple[Iterable[object], ...], *, seed: int, where: str) -> None:
        for split, loader in zip(SPLITS, loaders, strict=False):
            _check_iterable(loader, f"task {where!r}: the {split} loader")
        self.train = LoaderBatches(loaders[0], seed, f"task {where!r}: train data")
        rest = [
            _all(each, split, where) for split, each in zip(SPLITS[1:], loaders[1:], strict=False)
        ]
        self._validation, self._test = (*rest, [])[:2]

    def validation(self) -> list[Batch]:
        """Return the batches of the validation loader's first pass."""
        return self._validation

    def test(self) -> list[Batch]:
        """Return the batches of the test loader's first pass; none where there is no loader."""
        return self._test


class LoaderBatches:
    """The training loader, over and over, with a cursor."""

    def __init__(self, loader: Iterable[object], seed: int, where: str) -> None:
        self._loader, self._seed, self._where = loader, seed, where
        self._epoch = self._index = 0
        self._iterator: Iterator[object] | None = None
        self.batches_per_epoch = len(loader) if isinstance(loader, Sized) else self._count()
        if self.batches_per_epoch < 1:
            raise BadData(f"{where}: the loader gives no batch; it must give one or more")

    def next_batch(self) -> Batch:
        """Return the batch under the cursor, checked, and move the cursor on."""
        if self._iterator is None:
            self._iterator = self._open()
        place = f"{self._where}, epoch {self._epoch}, batch {self._index}"
        batch = _checked(self._draw(self._iterator, self._index), place)
        self._index += 1
        if self._index == self.batches_per_epoch:
            self._epoch, self._index, self._iterator = self._epoch + 1, 0, None
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the cursor."""
        return {"epoch": self._epoch, "index": self._index}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Move the cursor; raises ValueError for what is no cursor of this data."""
        self._epoch, self._index = legal_cursor(state, self.batches_per_epoch)
        self._iterator = None

    def _open(self) -> Iterator[object]:
        """Start the cursor's epoch and draw the batches before the cursor."""
        with seeded(self._key("start")):
            for generator in _generators(self._loader):
                generator.manual_seed(self._key("shuffle"))
            iterator = iter(self._loader)
        for index in range(self._index):
            self._draw(iterator, index)
        return iterator

    def _draw(self, iterator: Iterator[object], index: int) -> object:
        with seeded(self._key(f"batch {index}")):
            batch = next(iterator, _END)
        if batch is _END:
            raise BadData(
                f"{self._where}: epoch {self._epoch} ended after {index} of "
                f"{self.batches_per_epoch} batches; every epoch must have as many"
            )
        return batch

    def _count(self) -> int:
        with seeded(self._key("start")):
            return sum(1 for _ in self._loader)

    def _key(self, purpose: str) -> int:
        return key(self._seed, "data", 0, self._epoch, purpose)


def _generators(loader: object) -> list[torch.Generator]:
    """The generators of its own that a DataLoader and its sampler would otherwise use up."""
    owners = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return [each for each in found if isinstance(each, torch.Generator)]


def _check_iterable(loader: object, where: str) -> None:
    if not isinstance(loader, Iterable):
        raise BadData(
            f"{where} is a {type(loader).__name__}; legal is an iterable of (x, y) batches, "
            "e.g. a DataLoader"
        )
    if isinstance(loader, Iterator):
        raise BadData(
            f"{where} is a {type(loader).__name__} that ends after one pass; give something that "
            "can be iterated again, e.g. a DataLoader or a list of batches"
        )


def _all(loader: Iterable[object], split: str, where: str) -> list[Batch]:
    """Draw a whole split and check it; samples are counted from its first one."""
    place, batches, first = f"task {where!r}: {split} data", [], 0
    with seeded(0):
        for index, drawn in enumerate(loader):
            batches.append(_checked(drawn, f"{place}, batch {index}", first))
            first += len(batches[-1][0])
    if not batches:
        raise BadData(f"{place}: the loader gives no batch; it must give one or more")
    return batches


def _checked(batch: object, place: str, first: int = 0) -> Batch:
    if not _is_pair(batch):
        raise BadData(f"{place} is {describe(batch)}; legal is a pair (x, y) of two tensors")
    x, y = cast(Batch, batch)
    if len(x) != len(y) or not len(x):
        raise BadData(
            f"{place} has {len(x)} inputs and {len(y)} targets; there must be one target for "
            "each input, and one or more of them"
        )
    check_finite(place, x, first)
    check_finite(place, y, first)
    return x, y


def _is_pair(batch: object) -> bool:
    return (
        isinstance(batch, tuple | list)
        and len(batch) == 2
        and all(isinstance(part, Tensor) and part.dim() > 0 for part in batch)
    )


def describe(value: object) -> str:
    """Say what a value is, for a message: its type and, in a container, its parts."""
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {', '.join(map(str, value)) or '(none)'}"
    if isinstance(value, tuple | list):
        parts = ", ".join(type(part).__name__ for part in value[:6])
        return f"a {type(value).__name__} of {len(value)} ({parts})"
    return "None" if value is None else f"a {type(value).__name__}"

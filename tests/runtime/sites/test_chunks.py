"""Slicing features into chunks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kasmina.sites import ChunkManager, SiteError

SIZES = st.integers(1, 40).flatmap(lambda f: st.tuples(st.just(f), st.integers(1, f)))


@given(SIZES, st.sampled_from([0, 1, -1]))
def test_split_and_join_are_views(size: tuple[int, int], axis: int) -> None:
    """Chunks share the tensor's memory, cover it once, and join to a view of it."""
    features, chunks = size
    manager = ChunkManager(features, chunks)
    shape = [3, 2]
    shape.insert(axis % 3, features)
    x = torch.randn(shape)
    parts = manager.split(x, axis)
    assert [part.shape[axis] for part in parts] == list(manager.widths)
    assert max(manager.widths) - min(manager.widths) <= 1
    assert all(p.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for p in parts)
    joined = manager.join(parts, axis)
    assert torch.equal(joined, x)
    assert joined.data_ptr() == x.data_ptr()


@given(SIZES)
def test_columns_are_the_chunks(size: tuple[int, int]) -> None:
    """The columns that count are every feature once, in order, chunk by chunk."""
    manager = ChunkManager(*size)
    columns, valid = manager.columns(), manager.valid()
    assert columns.shape == valid.shape == (manager.chunks, manager.width)
    assert torch.equal(columns[valid], torch.arange(manager.features))
    assert [manager.start(i) for i in range(manager.chunks)] == columns[:, 0].tolist()
    assert manager.is_even == bool(valid.all())


def test_joining_what_was_changed() -> None:
    """Chunks that are no neighbours any more are copied together."""
    manager = ChunkManager(5, 2)
    x = torch.arange(10.0).view(2, 5)
    first, second = manager.split(x)
    assert torch.equal(manager.join([first, second + 1]), torch.cat([first, second + 1], -1))


def test_joining_keeps_gradients() -> None:
    """Every chunk gets its own gradient back."""
    manager = ChunkManager(5, 2)
    x = torch.ones(2, 5, requires_grad=True)
    first, second = manager.split(x)
    joined = manager.join([first, second])
    (gradient,) = torch.autograd.grad((joined * torch.arange(5.0)).sum(), x)
    assert torch.equal(gradient, torch.arange(5.0).expand(2, 5))


@pytest.mark.parametrize("chunks", [0, -1, 6])
def test_more_chunks_than_features(chunks: int) -> None:
    """Every chunk has at least one feature."""
    with pytest.raises(SiteError) as error:
        ChunkManager(5, chunks)
    assert str(error.value) == (
        f"5 features cannot be cut into {chunks} chunks of at least one feature; ask for 1 to 5 "
        "seeds"
    )


def test_wrong_tensors() -> None:
    """A tensor or chunks of other widths are refused."""
    manager = ChunkManager(5, 2)
    with pytest.raises(SiteError, match=r"expected 5 features on axis -1, got .* \(2, 4\)"):
        manager.split(torch.zeros(2, 4))
    with pytest.raises(SiteError, match=r"expected chunks of widths \(3, 2\), got \(2, 3\)"):
        manager.join([torch.zeros(1, 2), torch.zeros(1, 3)])

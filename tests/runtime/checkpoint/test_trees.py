"""Nested containers go through a checkpoint and come back equal in types and bits."""

from __future__ import annotations

import random
import struct
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kasmina.checkpoint import BadContents, CheckpointManager, Contents
from kasmina.checkpoint.border import array_of
from kasmina.checkpoint.strict_json import dumps, loads
from kasmina.checkpoint.tensors import decode, encode
from kasmina.checkpoint.trees import BadTree, Flattened, restored


def through(value: Any) -> Any:
    """There and back, by way of bytes."""
    flat = Flattened()
    tree = loads(dumps(flat.add("it", value)))
    return restored(tree, decode(memoryview(bytearray(b"".join(encode(flat.blocks))))))


def bits(value: Any) -> tuple[str, bytes]:
    """The dtype and the items of an array, little-endian in C order."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().resolve_conj().contiguous().reshape(-1)
        return str(value.dtype), plain.view(torch.uint8).numpy().tobytes()
    return value.dtype.name, value.astype(value.dtype.newbyteorder("<")).tobytes()


def same(one: Any, other: Any) -> bool:
    """Equal in types, order and bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor | np.ndarray | np.generic):
        return (one.shape, bits(one)) == (other.shape, bits(other))
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(a, b) for a, b in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 2**64, -(2**100), 1.5, -0.0, float("nan"), float("inf"), float("-inf"),
        5e-324, "", "ü\ud800\0", b"", b"\0\xff", [], (), set(), frozenset({1}), {}, [[], ()],
        (1, (2, [3])), {"a": {"b": 1}}, {1: 2, "a": 3, None: 4, (1, "x"): 5, 1.5: 7}, {False: 0},
        {"$tensor": "a"}, {"$": 1, "b": 2}, OrderedDict(b=1, a=2), Counter({30: 1, 60: 2}),
        {"z": 1, "a": 2}, random.Random(3).getstate(), np.random.RandomState(3).get_state(),
        np.float32(0.1), np.int64(-3), np.bool_(True), np.zeros((3, 0)),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(7, np.uint16), np.array(1j, "c8"),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_values_come_back(value: Any) -> None:
    """Python's own types and numpy's."""
    assert same(through(value), value)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "uint8", "int8", "uint16", "int16", "float16", "bfloat16", "uint32", "int32", "float32",
     "uint64", "int64", "float64", "complex64", "float8_e4m3fn", "float8_e5m2"],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_tensors_of_every_dtype_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    """Every bit pattern of bytes, NaNs with payloads too."""
    kind = getattr(torch, dtype)
    count = int(np.prod(shape)) * kind.itemsize
    raw = torch.arange(count, dtype=torch.uint8) * 37
    raw = raw % 2 if dtype == "bool" else raw
    value = raw.view(kind).reshape(shape) if count else torch.empty(shape, dtype=kind)
    assert same(through({"x": value})["x"], value)


def test_views_come_back_as_what_they_show() -> None:
    """Transposed, strided, expanded, conjugated, negated, with a gradient."""
    base = torch.randn(4, 6)
    wave = torch.randn(3, dtype=torch.complex64)
    for view in (base.t(), base[::2, 1:5], base[:, None].expand(4, 3, 6), wave.conj()):
        assert same(through(view), view)
    assert torch.equal(through(wave.conj().imag), wave.conj().imag)
    assert torch.equal(through(base.bfloat16().t()), base.bfloat16().t())
    leaf = base.clone().requires_grad_()
    back = through(leaf)
    assert torch.equal(back, base)
    assert not back.requires_grad


def test_a_module_and_its_optimizer_come_back() -> None:
    """Integer keys, tuples of betas, `_metadata` of the modules."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    torch.autograd.backward(model(torch.randn(5, 3)).sum())
    optimizer.step()
    states = {"m": model.state_dict(), "o": optimizer.state_dict(), "s": schedule.state_dict()}
    back = through(states)
    assert same(back, states)
    assert back["m"]._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(back["m"])
    optimizer.load_state_dict(back["o"])
    schedule.load_state_dict(back["s"])


class Unknown:
    """Something that no checkpoint holds."""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Unknown(), "a tests.runtime.checkpoint.test_trees.Unknown cannot be kept; legal are numbers"),
        (np.array(["a"]), "numpy dtype <U1 cannot be kept; legal are bool, uint8,"),
        (np.array([None]), "numpy dtype object cannot be kept"),
        (torch.zeros(2, dtype=torch.complex128), "a torch.strided tensor of torch.complex128 on cpu"),
        (torch.eye(2).to_sparse(), "a torch.sparse_coo tensor of torch.float32 on cpu cannot be kept"),
        (torch.zeros(2, device="meta"), "on meta cannot be kept; legal are dense ones of bool"),
        ({Unknown: 1}, "a key of type type"),
        (np.arange(5, dtype=">i4"), "numpy dtype >i4 would come back in this machine's order of bytes"),
        (np.zeros(2, ">f8"), "; give array.astype(array.dtype.newbyteorder('='))"),
        (nn.Parameter(torch.zeros(2)), "a torch.nn.parameter.Parameter would come back as a plain tensor"),
        (nn.Parameter(torch.zeros(2)), "; give one, as detach() makes of a Parameter"),
        (torch.zeros(1).expand(10**14), "there is no memory to copy it: Unable to allocate 364. TiB"),
        (torch.zeros(1, dtype=torch.bfloat16).expand(10**14), "there is no memory to copy it: "),
        (np.broadcast_to(np.zeros(1), 10**14), "there is no memory to copy it: Unable to allocate"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_cannot_be_kept_is_named_with_its_place(
    value: Any, message: str, tmp_path: Path
) -> None:
    """Nothing is written."""
    manager = CheckpointManager(tmp_path)
    with pytest.raises(BadContents) as caught:
        manager.save(Contents(parts={"optimizer": {"state": [0, value]}}))
    assert str(caught.value).startswith("optimizer['state']['1']: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_a_circle_is_refused() -> None:
    """And not followed for ever."""
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(BadContents, match="nested more than 100 deep, or a circle; nothing was"):
        Flattened().add("it", circle)


@pytest.mark.parametrize("table", [1, [{"a": 1}], {"a": 1}])
def test_versions_of_what_is_no_state_dict(table: Any) -> None:
    """A file may say so; it is refused as every other tree that nobody wrote."""
    with pytest.raises(
        BadTree, match=r"^\$versioned: a (int|list|dict) with versions, which only a state dict has"
    ):
        restored({"$versioned": [table, 2]}, {})


def test_arrays_have_no_place_in_metadata(tmp_path: Path) -> None:
    """Metadata can be read without tensors."""
    with pytest.raises(BadContents, match=r"metadata\['a'\]: a numpy.ndarray cannot be kept"):
        CheckpointManager(tmp_path).save(Contents(metadata={"a": np.zeros(2)}))


def test_restored_arrays_may_be_written(tmp_path: Path) -> None:
    """They share no memory with each other or with the file."""
    manager = CheckpointManager(tmp_path)
    manager.save(Contents(parts={"a": {"x": torch.ones(3), "y": np.ones(3)}}))
    part = manager.restore().contents().parts["a"]
    part["x"].add_(1)
    assert part["y"].tolist() == [1, 1, 1]
    part["y"][:] = 5
    assert part["x"].tolist() == [2, 2, 2]
    assert manager.verify()[0].fault is None


def test_one_tensor_under_two_names_becomes_two(tmp_path: Path) -> None:
    """Tied weights are tied by the model that loads them, as with any state dict."""
    manager = CheckpointManager(tmp_path)
    tied = torch.ones(3)
    manager.save(Contents(parts={"m": {"a": tied, "b": tied, "c": tied[1:]}}))
    part = manager.restore().contents().parts["m"]
    part["a"].zero_()
    assert (part["b"].tolist(), part["c"].tolist()) == ([1, 1, 1], [1, 1])


def test_a_file_that_names_a_tensor_twice_is_refused() -> None:
    """Nobody writes it; two arrays in one memory would change each other."""
    flat = Flattened()
    tree = flat.add("it", torch.zeros(2))
    with pytest.raises(BadTree, match=r"^\$tensor: the tensor 'it' is not there, or named twice$"):
        restored([tree, tree], flat.blocks)


def test_contents_that_are_asked_for_twice_share_memory(tmp_path: Path) -> None:
    """As `Restored.contents` says; restoring again reads the file again."""
    manager = CheckpointManager(tmp_path)
    manager.save(Contents(parts={"a": torch.ones(3)}))
    found = manager.restore()
    found.contents().parts["a"].zero_()
    assert found.contents().parts["a"].tolist() == [0, 0, 0]
    assert manager.restore().contents().parts["a"].tolist() == [1, 1, 1]


def test_numpy_does_not_know_every_dtype() -> None:
    """The message says which."""
    flat = Flattened()
    flat.add("it", torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="numpy has no BF16"):
        array_of(flat.blocks["it"], "array")


_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
)  # fmt: skip
_KEYS = st.text() | st.integers() | st.none() | st.tuples(st.integers(), st.text())
_TREES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(_KEYS, inner)
        | st.dictionaries(st.text(), inner).map(OrderedDict)
    ),
    max_leaves=20,
)


@given(_TREES)
@settings(max_examples=200, deadline=None)
def test_every_tree_comes_back(tree: Any) -> None:
    """Whatever keys and values it has."""
    assert same(through(tree), tree)

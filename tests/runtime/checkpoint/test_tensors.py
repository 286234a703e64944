"""The bytes of tensors are those of the safetensors package, and are read as it reads them."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from kasmina.checkpoint import BadContents
from kasmina.checkpoint.tensors import ITEM_BYTES, Block, decode, encode

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,9}(/[a-z]{1,5})?", fullmatch=True)
_SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """Any block."""
    dtype, shape = draw(st.sampled_from(sorted(ITEM_BYTES))), draw(_SHAPES)
    size = int(np.prod(shape)) * ITEM_BYTES[dtype]
    return Block(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


@given(st.dictionaries(NAMES, blocks(), max_size=6))
@settings(max_examples=150, deadline=None)
def test_the_package_reads_what_we_write(given_blocks: dict[str, Block]) -> None:
    """Names, dtypes, shapes and bytes; and so do we."""
    data = b"".join(encode(given_blocks))
    theirs = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    assert theirs.keys() == given_blocks.keys()
    for name, block in given_blocks.items():
        entry = theirs[name]
        assert (entry["dtype"], tuple(entry["shape"])) == (block.dtype, block.shape)
        assert bytes(entry["data"]) == block.data
    assert {n: (b.dtype, b.shape, bytes(b.data)) for n, b in decode(memoryview(data)).items()} == {
        n: (b.dtype, b.shape, b.data) for n, b in given_blocks.items()
    }


def test_we_read_what_the_package_writes() -> None:
    """Its metadata is passed over."""
    arrays = {"a.b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.array([True, False])}
    data = safetensors.numpy.save(arrays, metadata={"by": "them"})
    found = decode(memoryview(data))
    assert {name: bytes(block.data) for name, block in found.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_tensors_are_aligned() -> None:
    """Wide items first, so every tensor lies at a multiple of its item."""
    given_blocks = {"a": Block("U8", (3,), b"abc"), "b": Block("F64", (1,), bytes(8))}
    data = b"".join(encode(given_blocks))
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 64 == 0
    assert data[start:] == bytes(8) + b"abc"


@pytest.mark.parametrize(
    ("name", "block", "message"),
    [
        ("../x", Block("U8", (), b"a"), "a name is at most 255 letters, digits and _ . - in words"),
        ("a//b", Block("U8", (), b"a"), "a name is at most 255"),
        ("a" * 256, Block("U8", (), b"a"), "a name is at most 255"),
        ("a\n", Block("U8", (), b"a"), "a name is at most 255"),
        ("a", Block("F128", (), b"a"), "tensor 'a': dtype F128; legal: BOOL, U8, I8"),
        ("a", Block("U8", (2,), b"a"), "tensor 'a': 1 bytes, its shape needs 2"),
        ("a", Block("U8", (1,) * 33, b"a"), "is too large"),
        ("a", Block("U8", (0, 1 << 50), b""), "is too large"),
    ],
)
def test_illegal_tensors_are_not_written(name: str, block: Block, message: str) -> None:
    """By name, dtype, size and shape."""
    with pytest.raises(BadContents, match=message):
        encode({name: block})

"""Tensors as bytes: the safetensors layout, written without a detour and read strictly.

The layout is that of https://github.com/huggingface/safetensors: 8 bytes of length, a JSON table of
name, dtype, shape and offsets, then the data. The package itself reads it too generously for files
of unknown origin: it takes the last of two equal keys, and any name, `../../etc/x` too; and it
wants every tensor as `bytes`, which is one copy more. `tests` hold both readers equal on good files.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from kasmina.checkpoint.errors import BadContents
from kasmina.checkpoint.names import LONGEST, is_tensor_name
from kasmina.checkpoint.strict_json import NotStrict, dumps, loads

Buffer = bytes | bytearray | memoryview

ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
TABLE_LIMIT = 1 << 24  # bytes of the JSON table: some 100,000 tensors
ITEM_LIMIT = 1 << 48  # items of a tensor, with axes of length 0 left out
RANK_LIMIT = 32
_ALIGNMENT = 64


class Block(NamedTuple):
    """One tensor: a dtype of `ITEM_BYTES`, a shape, and its items little-endian in C order.

    The data is bytes, or a memoryview of single bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Buffer


class BadTensors(ValueError):
    """Bytes that are no tensors in the strict reading."""


def encode(blocks: Mapping[str, Block]) -> list[Buffer]:
    """Lay out tensors as buffers that follow each other: the table, then every block's own.

    Raises:
        BadContents: a name or dtype is not on the allow-list, or a size is not that of the shape.
    """
    for name, block in blocks.items():
        _check(name, block)
    # Wide items first keeps every tensor aligned; the order is otherwise that of the caller.
    order = sorted(blocks, key=lambda name: -ITEM_BYTES[blocks[name].dtype])
    table, end = {}, 0
    for name in order:
        block = blocks[name]
        start, end = end, end + len(block.data)
        table[name] = {
            "dtype": block.dtype,
            "shape": list(block.shape),
            "data_offsets": [start, end],
        }
    text = dumps(table)
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    if len(text) > TABLE_LIMIT:
        raise BadContents(f"{len(blocks)} tensors", f"their table is over {TABLE_LIMIT} bytes")
    return [len(text).to_bytes(8, "little") + text, *(blocks[name].data for name in order)]


def decode(data: memoryview) -> dict[str, Block]:
    """Read tensors as views of `data`.

    Raises:
        BadTensors: anything but exactly what `encode` could have written.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(TABLE_LIMIT, len(data) - 8):
        raise BadTensors(
            f"the table of tensors would be {length} bytes long; {len(data)} bytes are there, and "
            f"{TABLE_LIMIT} are legal"
        )
    try:
        table = loads(data[8 : 8 + length])
    except NotStrict as error:
        raise BadTensors(f"the table of tensors cannot be read: {error}") from None
    if not isinstance(table, dict):
        raise BadTensors("the table of tensors is no JSON object")
    table.pop("__metadata__", None)  # text of other writers, which we never use
    return _blocks(table, data[8 + length :])


def _blocks(table: dict[str, Any], data: memoryview) -> dict[str, Block]:
    places = sorted((_place(name, entry), name) for name, entry in table.items())
    end, blocks = 0, {}
    for (start, stop), name in places:
        if start != end:
            raise BadTensors(f"tensor {name!r} begins at byte {start} and not at {end}")
        entry, end = table[name], stop
        blocks[name] = Block(entry["dtype"], tuple(entry["shape"]), data[start:stop])
    if end != len(data):
        raise BadTensors(f"the tensors end at byte {end}, the data at {len(data)}")
    return {name: blocks[name] for name in table}


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor of the table lies, once everything that it says is legal."""
    if not is_tensor_name(name):
        raise BadTensors(f"the name {name[:100]!r} is not legal for a tensor")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadTensors(f"tensor {name!r} has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise BadTensors(f"tensor {name!r} has the dtype {str(dtype)[:40]!r}")
    if not _counts(shape) or len(shape) > RANK_LIMIT or _items(shape) > ITEM_LIMIT:
        raise BadTensors(f"tensor {name!r} has an impossible shape")
    if not _counts(offsets) or len(offsets) != 2:
        raise BadTensors(f"tensor {name!r} has no legal data_offsets")
    size = prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != size:
        raise BadTensors(f"tensor {name!r} has {size} bytes by its shape and others by its offsets")
    return offsets[0], offsets[1]


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 62 for v in values)


def _items(shape: Any) -> int:
    """Items with empty axes left out: `[0, 2**62]` holds nothing and yet no library can make it."""
    return prod(length for length in shape if length)


def _check(name: str, block: Block) -> None:
    if not is_tensor_name(name):
        raise BadContents(
            f"tensor {name[:100]!r}",
            f"a name is at most {LONGEST} letters, digits and _ . - in words joined by /",
        )
    if block.dtype not in ITEM_BYTES:
        raise BadContents(
            f"tensor {name!r}", f"dtype {block.dtype}; legal: {', '.join(ITEM_BYTES)}"
        )
    if len(block.shape) > RANK_LIMIT or _items(block.shape) > ITEM_LIMIT:
        raise BadContents(f"tensor {name!r}", f"shape {list(block.shape)} is too large")
    size, wanted = len(block.data), prod(block.shape) * ITEM_BYTES[block.dtype]
    if size != wanted:
        raise BadContents(f"tensor {name!r}", f"{size} bytes, its shape needs {wanted}")

"""Arrays at the border: numpy arrays and torch tensors in, and out again.

The only module of the room that may import either, and only when one is met: who has no tensor in
its hands has not imported torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from kasmina.checkpoint.errors import BadContents
from kasmina.checkpoint.tensors import Block

Kind = Literal["tensor", "array", "scalar"]

_NAMES = {  # numpy and torch call them the same
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "F16": "float16",
    "U32": "uint32", "I32": "int32", "F32": "float32", "U64": "uint64", "I64": "int64",
    "F64": "float64", "C64": "complex64",
}  # fmt: skip
_TORCH_NAMES = _NAMES | {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_CODES = {name: code for code, name in _TORCH_NAMES.items()}


def where(place: Sequence[str]) -> str:
    """A place in a tree as messages write it: `optimizer['state']['0']`."""
    return "".join(f"[{part!r}]" if number else part for number, part in enumerate(place))


def kind_of(value: Any) -> Kind | None:
    """What sort of array a value is; None for everything else."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        return "tensor"
    if numpy is not None and type(value) is numpy.ndarray:
        return "array"
    return "scalar" if numpy is not None and isinstance(value, numpy.generic) else None


def block_of(value: Any, kind: Kind, place: Sequence[str]) -> Block:
    """An array as bytes; on the CPU they are its own, so copy before they change.

    Raises:
        BadContents: a type, dtype or layout that no checkpoint holds, or no memory for it.
    """
    try:
        return _of_tensor(value, place) if kind == "tensor" else _of_array(value, place)
    except (MemoryError, RuntimeError) as error:  # torch raises the latter
        raise BadContents(where(place), f"there is no memory to copy it: {error}") from error


def array_of(block: Block, kind: str) -> Any:
    """A block as an array again, without a copy where its place in memory allows."""
    array = _tensor(block) if kind == "tensor" else _array(block)
    return array[()] if kind == "scalar" else array


def _of_array(value: Any, place: Sequence[str]) -> Block:
    import numpy as np

    array = np.asarray(value)
    dtype = _CODES.get(array.dtype.name)
    if dtype is None:
        raise BadContents(
            where(place),
            f"numpy dtype {array.dtype} cannot be kept; legal are {', '.join(_NAMES.values())}",
        )
    if not array.dtype.isnative:
        raise BadContents(
            where(place),
            f"numpy dtype {array.dtype} would come back in this machine's order of bytes; give "
            "array.astype(array.dtype.newbyteorder('='))",
        )
    return _of_items(dtype, array)


def _of_items(dtype: str, array: Any) -> Block:
    import numpy as np

    shape = array.shape
    if not (array.flags.c_contiguous and sys.byteorder == "little"):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return Block(dtype, shape, array.reshape(-1).view(np.uint8).data)


def _of_tensor(value: Any, place: Sequence[str]) -> Block:
    import torch

    if type(value) is not torch.Tensor:
        raise BadContents(
            where(place),
            f"a {type(value).__module__}.{type(value).__qualname__} would come back as a plain "
            "tensor; give one, as detach() makes of a Parameter",
        )
    plain = value.layout is torch.strided and not value.is_quantized and not value.is_meta
    dtype = _codes_of_torch().get(value.dtype) if plain else None
    if dtype is None:
        raise BadContents(
            where(place),
            f"a {value.layout} tensor of {value.dtype} on {value.device} cannot be kept; legal are "
            f"dense ones of {', '.join(_TORCH_NAMES.values())}",
        )
    if dtype in _NAMES:
        return _of_items(dtype, value.numpy(force=True))
    raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return Block(dtype, tuple(value.shape), raw.numpy().data)


@cache
def _codes_of_torch() -> dict[Any, str]:
    import torch

    return {getattr(torch, name): code for code, name in _TORCH_NAMES.items()}


def _array(block: Block) -> Any:
    import numpy as np

    if block.dtype not in _NAMES:
        raise ValueError(f"numpy has no {block.dtype}")
    dtype = np.dtype(_NAMES[block.dtype]).newbyteorder("<")
    return np.frombuffer(block.data, dtype).reshape(block.shape)


def _tensor(block: Block) -> Any:
    import torch

    dtype = getattr(torch, _TORCH_NAMES[block.dtype])
    if 0 in block.shape:
        return torch.empty(block.shape, dtype=dtype)
    data = memoryview(block.data)
    raw = torch.frombuffer(data if not data.readonly else bytearray(data), dtype=torch.uint8)
    if raw.data_ptr() % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype).reshape(block.shape)

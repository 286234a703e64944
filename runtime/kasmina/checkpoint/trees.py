"""Nested containers as JSON, their arrays as named blocks; nothing is lost, nothing is pickled.

What JSON has stands as it is. Everything else is an object with one key that begins with `$`:

    {"$tensor": name}  {"$array": name}  {"$scalar": name}      torch tensor, numpy array or scalar
    {"$tuple": [...]}  {"$set": [...]}  {"$frozenset": [...]}
    {"$dict": [[key, value], ...]}      a dict with keys that are no plain strings
    {"$ordered": [[key, value], ...]}   an OrderedDict; {"$counter": ...} a Counter
    {"$versioned": [tree, tree]}        an OrderedDict and its `_metadata`, as modules write them
    {"$float": "7ff8000000000000"}      NaN and the infinities, by the bits of the double
    {"$int": "0x..."}                   an integer of more than 64 bits
    {"$bytes": "..."}                   base64

Everything else is refused with its place: an allow-list can be read by somebody else's program,
and cannot run code.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from kasmina.checkpoint.border import array_of, block_of, kind_of
from kasmina.checkpoint.errors import BadContents
from kasmina.checkpoint.names import LONGEST, is_tensor_name
from kasmina.checkpoint.tensors import Block

DEPTH_LIMIT = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]+")
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
}
_MAPPINGS: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "$dict": dict,
    "$ordered": OrderedDict,
    "$counter": lambda pairs: Counter(dict(pairs)),
}
_SEQUENCE_OF: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_MAPPING_OF: dict[type, str] = {dict: "$dict", OrderedDict: "$ordered", Counter: "$counter"}


class BadTree(ValueError):
    """JSON that `flatten` did not write."""


class Flattened:
    """Trees, flattened one after the other into the same set of named blocks."""

    def __init__(self) -> None:
        self.blocks: dict[str, Block] = {}

    def add(self, name: str, value: Any, *, arrays: bool = True) -> Any:
        """The JSON of a value, its arrays put among the blocks.

        Args:
            name: where the names of the blocks, and places in messages, begin.
            value: nested containers of numbers, text, bytes and arrays.
            arrays: whether arrays may be among it.

        Raises:
            BadContents: something that no checkpoint holds, with its place.
        """
        self._arrays = arrays
        return self._encode(value, (name,))

    def _encode(self, value: Any, place: tuple[str, ...]) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if -(1 << 63) <= value < 1 << 64 else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode()}
        if len(place) > DEPTH_LIMIT:
            raise BadContents(
                _where(place[:3]), f"nested more than {DEPTH_LIMIT} deep, or a circle"
            )
        if kind is list:
            return [self._encode(v, (*place, str(i))) for i, v in enumerate(value)]
        if kind in _SEQUENCE_OF:
            return {_SEQUENCE_OF[kind]: self._encode(list(value), place)}
        if kind in _MAPPING_OF:
            return self._mapping(value, place)
        return self._array(value, place)

    def _mapping(self, value: Mapping[Any, Any], place: tuple[str, ...]) -> Any:
        if type(value) is dict and all(type(k) is str and not k.startswith("$") for k in value):
            return {k: self._encode(v, (*place, k)) for k, v in value.items()}
        tag = _MAPPING_OF[type(value)]
        encoded = {
            tag: [
                [self._key(k, place), self._encode(v, (*place, str(k)))] for k, v in value.items()
            ]
        }
        versions = getattr(value, "_metadata", None)  # nn.Module.state_dict hangs it there
        if versions is None:
            return encoded
        return {"$versioned": [encoded, self._encode(versions, (*place, "_metadata"))]}

    def _key(self, key: Any, place: tuple[str, ...]) -> Any:
        parts = key if type(key) is tuple else (key,)
        if not all(type(part) in (str, int, float, bool, type(None)) for part in parts):
            raise BadContents(_where(place), f"a key of type {type(key).__name__}")
        return self._encode(key, place)

    def _array(self, value: Any, place: tuple[str, ...]) -> Any:
        kind = kind_of(value)
        if kind is None or not self._arrays:
            raise BadContents(
                _where(place),
                f"a {type(value).__module__}.{type(value).__qualname__} cannot be kept; legal are "
                "numbers, text, bytes, None, list, tuple, set, dict"
                + (", numpy arrays and torch tensors" if self._arrays else ""),
            )
        name = self._fresh(place)
        self.blocks[name] = block_of(value, kind, place)
        return {f"${kind}": name}

    def _fresh(self, place: tuple[str, ...]) -> str:
        """A legal name that tells the place; the tree is what counts, so it may be shortened."""
        plain = "/".join(place)
        if is_tensor_name(plain) and plain not in self.blocks:
            return plain
        words = (_UNSAFE.sub("_", part).lstrip(".-") or "_" for part in place)
        name = wanted = "/".join(words)[: LONGEST - 12].rstrip("/")
        number = 1
        while name in self.blocks:
            number += 1
            name = f"{wanted}.{number}"
        return name


def restored(tree: Any, blocks: dict[str, Block]) -> Any:
    """What was flattened, equal in types and bits; arrays lie on the CPU.

    Each array takes its block out of `blocks`, so that no two share memory.

    Raises:
        BadTree: the JSON is none of `Flattened.add`, or names a block that is not there, or twice.
    """
    if isinstance(tree, list):
        return [restored(each, blocks) for each in tree]
    if not isinstance(tree, dict):
        return tree
    tag = next(iter(tree)) if len(tree) == 1 else ""
    if not tag.startswith("$"):
        if any(key.startswith("$") for key in tree):
            raise BadTree(f"a marked object with the keys {sorted(tree)[:4]}")
        return {key: restored(each, blocks) for key, each in tree.items()}
    try:
        return _marked(tag, tree[tag], blocks)
    except (TypeError, ValueError, KeyError, struct.error) as error:
        raise BadTree(f"{tag}: {error}") from None


def _marked(tag: str, value: Any, blocks: dict[str, Block]) -> Any:
    if tag in ("$tensor", "$array", "$scalar"):
        if value not in blocks:
            raise BadTree(f"the tensor {str(value)[:100]!r} is not there, or named twice")
        return array_of(blocks.pop(value), tag[1:])
    if tag == "$float":
        return struct.unpack(">d", bytes.fromhex(value))[0]
    if tag == "$int":
        return int(value, 16)
    if tag == "$bytes":
        return base64.b64decode(value, validate=True)
    if not isinstance(value, list):
        raise BadTree(f"{tag} with a {type(value).__name__}")
    if tag in _SEQUENCES:
        return _SEQUENCES[tag]([restored(each, blocks) for each in value])
    if tag in _MAPPINGS:
        pairs = [(restored(key, blocks), restored(each, blocks)) for key, each in value]
        return _MAPPINGS[tag](pairs)
    if tag == "$versioned":
        table, versions = (restored(each, blocks) for each in value)
        if not isinstance(table, OrderedDict):
            raise BadTree(f"a {type(table).__name__} with versions, which only a state dict has")
        table._metadata = versions  # type: ignore[attr-defined]
        return table
    raise BadTree(f"unknown mark {tag[:40]!r}")


def _where(place: tuple[str, ...]) -> str:
    return "".join(f"[{part!r}]" if number else part for number, part in enumerate(place))

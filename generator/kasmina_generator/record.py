"""Taking a mapping apart key by key, with every fault recorded and nothing left over.

Getters return a fallback of the right type where a value is missing or wrong. The fallback never
escapes: the fault is in the log by then, and `read_spec` raises if the log holds anything.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from collections.abc import Mapping as MappingType
from pathlib import Path
from typing import TypeVar

from kasmina_generator.document import Mapping, Node, Scalar, Sequence, Unusable, describe
from kasmina_generator.finding import Log
from kasmina_generator.model import Place
from kasmina_generator.model import Scalar as Value
from kasmina_generator.number import (
    integer_range,
    parse_boolean,
    parse_float,
    parse_integer,
    round_to_float32,
)
from kasmina_generator.vocabulary import Keys, fault_of_name

Name = TypeVar("Name", bound=str)


# For keys that nobody would expect.
HINTS = {
    "nan": "say what a NaN means: 'unknown' (guards see it, and no comparison with it holds), "
    "'refuse' (the step raises), or a number that is taken in its place",
    "infinity": "say what an infinite value means: 'allowed' (guards see it), 'unknown' (it is "
    "taken for a NaN), or 'refuse' (the step raises)",
}


class Record:
    """One mapping under the keys that it may have; `label` says which record it is."""

    def __init__(self, log: Log, label: str, node: Mapping, keys: Keys) -> None:
        self.log = log
        self.label = label
        self.at = node.place
        self._values = {key.text: value for key, value in node.entries}
        for key, _ in node.entries:
            if key.text not in keys.all:
                what = f"{label}: unknown key {key.text!r}"
                log.add(key.place, what, allowed=keys.all, given=key.text)
        for name in keys.required:
            if name not in self._values:
                required = ", ".join(keys.required)
                what = f"{label}: key '{name}' is missing; required: {required}"
                log.add(node.place, what, hint=HINTS.get(name, ""))

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def has_fault(self, key: str) -> bool:
        """Say whether a fault was found in the value of `key`."""
        return key in self._values and self.log.has(self.place(key))

    def node(self, key: str) -> Node | None:
        """Return the value of `key`, None if it is missing or was refused."""
        value = self._values.get(key)
        return None if isinstance(value, Unusable) else value

    def place(self, key: str) -> Place:
        """Return where the value of `key` stands, or the record itself without one."""
        return self._values[key].place if key in self._values else self.at

    def fault(
        self, key: str, what: str, *, allowed: Collection[str] = (), given: str | None = None
    ) -> None:
        """Record that the value of `key` is wrong."""
        self.log.add(self.place(key), f"{self.label}: {key}: {what}", allowed=allowed, given=given)

    def expected(self, key: str, wanted: str) -> None:
        """Record that `key` holds something else than `wanted`."""
        value = self.node(key)
        if value is not None:
            self.fault(key, f"expected {wanted}, found {describe(value)}")

    def scalar(self, key: str, wanted: str) -> Scalar | None:
        """Return the scalar at `key`; None if it is missing or something else."""
        value = self.node(key)
        if isinstance(value, Scalar) and (value.text or not value.plain):
            return value
        self.expected(key, wanted)
        return None

    def text(self, key: str) -> str:
        """Return a line of prose with its white space evened out; "" without one."""
        scalar = self.scalar(key, "text")
        if scalar is None:
            return ""
        if parse_float(scalar) is not None or parse_boolean(scalar) is not None:
            self.fault(key, f"expected text, found {scalar.text}; put it in quotes")
        line = " ".join(scalar.text.split())
        if not line:
            self.fault(key, "is empty; say it in a sentence")
        elif not line.isprintable():
            self.fault(key, f"holds a character that cannot be printed: {line!r}")
        return line

    def integer(self, key: str, low: int, high: int, *, default: int = 0) -> int:
        """Return an integer in `[low, high]`; `default` if missing or wrong."""
        scalar = self.scalar(key, "an integer")
        value = parse_integer(scalar) if scalar else None
        if value is not None and low <= value <= high:
            return value
        if value is not None:
            self.fault(key, f"{value} is out of range; allowed: {low} to {high}")
        elif scalar:
            self.expected(key, f"an integer from {low} to {high}")
        return default

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Return true or false; `default` if missing or wrong."""
        scalar = self.scalar(key, "true or false")
        value = parse_boolean(scalar) if scalar else None
        if scalar and value is None:
            self.expected(key, "true or false")
        return default if value is None else value

    def choice(self, key: str, allowed: Collection[Name]) -> Name | None:
        """Return one of the names in `allowed`; None if missing or wrong."""
        scalar = self.scalar(key, "a name")
        if scalar is None:
            return None
        for name in allowed:
            if name == scalar.text:
                return name
        self.fault(key, f"unknown {scalar.text!r}", allowed=allowed, given=scalar.text)
        return None

    def value(self, key: str, dtype: str) -> Value | None:
        """Return the value at `key` as `dtype` stores it; None if missing or wrong."""
        scalar = self.scalar(key, f"a {dtype}")
        return self.typed(key, scalar, dtype) if scalar else None

    def typed(self, key: str, scalar: Scalar, dtype: str) -> Value | None:
        """Return `scalar` as `dtype` stores it; None, with a fault, if it cannot."""
        value: Value | None
        if dtype == "bool":
            value = parse_boolean(scalar)
        elif dtype in ("float32", "float64"):
            value = as_float(scalar, dtype)
        else:
            low, high = integer_range(dtype)
            value = parse_integer(scalar)
            value = value if value is not None and low <= value <= high else None
        if value is None:
            what = f"{self.label}: {key}: {scalar.text!r} is no {dtype}"
            self.log.add(scalar.place, what + _HOW_TO_WRITE.get(dtype, ""))
        return value

    def names(self, key: str) -> tuple[Scalar, ...]:
        """Return the names at `key`, which holds one name or a list of them."""
        node = self.node(key)
        if isinstance(node, Scalar):
            return (node,) if self.scalar(key, "a name or a list of names") else ()
        if not isinstance(node, Sequence):
            self.expected(key, "a name or a list of names")
            return ()
        return tuple(self._names_of(key, node))

    def _names_of(self, key: str, node: Sequence) -> Iterator[Scalar]:
        seen: set[str] = set()
        for item in node.items:
            if not isinstance(item, Scalar) or not item.text:
                what = f"{self.label}: {key}: expected a name, found {describe(item)}"
                self.log.add(item.place, what)
            elif item.text in seen:
                self.log.add(item.place, f"{self.label}: {key}: {item.text!r} is named twice")
            else:
                seen.add(item.text)
                yield item

    def file_beside(self, key: str, spec: Path) -> Path | None:
        """Return the file that `key` names, which lies beside the spec; None, with a fault."""
        scalar = self.scalar(key, "the name of a file")
        return self._beside(key, scalar.text, spec) if scalar else None

    def files_beside(self, key: str, spec: Path) -> Iterator[Path]:
        """Yield the files beside the spec that `key` names, one or a list of them."""
        found = (self._beside(key, item.text, spec) for item in self.names(key))
        return (file for file in found if file)

    def _beside(self, key: str, name: str, spec: Path) -> Path | None:
        if Path(name).name != name or name in (".", ".."):
            self.fault(key, f"{name!r} is no plain file name; the file lies beside the spec")
            return None
        if not (spec.parent / name).exists():
            self.fault(key, f"no file {name!r} lies beside the spec")
            return None
        return spec.parent / name

    def records(self, key: str, keys: Keys, label: str) -> Iterator[Record]:
        """Yield the mappings in the list at `key`, labelled `label 1`, `label 2`, ..."""
        node = self.node(key)
        if isinstance(node, Sequence):
            for number, item in enumerate(node.items, 1):
                if isinstance(item, Mapping):
                    yield Record(self.log, f"{label} {number}", item, keys)
                elif not isinstance(item, Unusable):
                    what = f"{label} {number}: expected a mapping, found {describe(item)}"
                    self.log.add(item.place, what)
        else:
            self.expected(key, "a list")

    def table(
        self, key: str, what: str, taken: frozenset[str] = frozenset()
    ) -> Iterator[tuple[Scalar, Node]]:
        """Yield name and node of each entry of the mapping at `key`; bad names are faults."""
        node = self.node(key)
        if not isinstance(node, Mapping):
            self.expected(key, "a mapping")
            return
        for name, value in node.entries:
            fault = fault_of_name(name.text, name.plain, taken)
            if fault:
                self.log.add(name.place, f"{what} {name.text!r} {fault}")
            yield name, value


def named_record(log: Log, what: str, name: Scalar, node: Node, keys: Keys) -> Record | None:
    """Return the record of one entry of a table; None, with a fault, if it is no mapping."""
    label = f"{what} {name.text!r}"
    if isinstance(node, Mapping):
        return Record(log, label, node, keys)
    if not isinstance(node, Unusable):
        log.add(node.place, f"{label}: expected a mapping, found {describe(node)}")
    return None


def chosen_record(
    log: Log, what: str, name: Scalar, node: Node, key: str, kinds: MappingType[Name, Keys]
) -> tuple[Record, Name] | None:
    """Return a record under the keys that its own value of `key` asks for, and that value."""
    choice = _choice(node, key, kinds)
    if choice is not None:
        record = named_record(log, what, name, node, kinds[choice])
        return (record, choice) if record else None
    every = tuple(dict.fromkeys(key for one in kinds.values() for key in one.all))
    record = named_record(log, what, name, node, Keys((key,), every))
    if record:
        record.choice(key, tuple(kinds))
    return None


def _choice(node: Node, key: str, kinds: MappingType[Name, Keys]) -> Name | None:
    for found, value in node.entries if isinstance(node, Mapping) else ():
        if found.text == key and isinstance(value, Scalar):
            return next((kind for kind in kinds if kind == value.text), None)
    return None


_HOW_TO_WRITE = {"bool": "; write true or false"}


def as_float(scalar: Scalar, dtype: str) -> float | None:
    """Return the number as `dtype` stores it; None where it is none or rounds to infinity."""
    written = parse_float(scalar)
    if written is None:
        return None
    stored = round_to_float32(written) if dtype == "float32" else written
    overflows = math.isinf(stored) and "inf" not in scalar.text.lower()
    return None if overflows else stored

"""One event of a log: its form, its text and what makes it legal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple, NoReturn, Protocol

from kasmina.errors import KasminaError

VERSION = 1

# kind: the fields that every event of it has; others may stand beside them
KINDS: Mapping[str, tuple[str, ...]] = {
    "run_started": ("task", "seed", "spec", "config", "parameters", "sites", "epochs", "budget"),
    "epoch": (
        "train_loss",
        "validation_loss",
        "validation_metric",
        "parameters",
        "flops",
        "states",
    ),
    "command": ("event", "blueprint", "strategy", "source", "reason"),
    "decision": ("controller", "observation", "legal", "action", "reason"),
    "step": ("tick", "rows"),
    "transition": ("event", "from", "to", "edge", "effects", "reason"),
    "refused": ("event", "state", "reason"),
    "allocated": ("blueprint", "parameters"),
    "released": ("blueprint",),
    "strategy": ("strategy", "indices"),
    "learned": ("strategy", "reward"),
    "ramp": ("action",),
    "contest": ("site", "winner", "candidates"),
    "scaled": ("rows", "losses"),
    "evidence": ("measure", "value", "interval", "terms"),
    "snapshot": ("number",),
    "rewind": ("number", "from_step", "to_step", "to", "addresses"),
    "limit": ("name", "value"),
    "warning": ("reason",),
    "comparison": ("name", "parameters", "test_metric", "train_flops", "curve"),
    "run_finished": (
        "status",
        "validation_metric",
        "test_metric",
        "parameters",
        "train_flops",
        "states",
        "architecture",
    ),
}
ADDRESSED = frozenset(
    {"transition", "refused", "allocated", "released", "evidence", "strategy", "ramp", "learned"}
)
ENVELOPE = ("run", "seq", "kind", "epoch", "step")  # after the version, in this order


class LogError(KasminaError, ValueError):
    """A log that cannot be read or written; the message begins with the file and line."""


class TornLine(LogError):
    """The log ends in a part of a line: its writer was killed in the middle of it."""


class Addressed(Protocol):
    """The part of a seed's address that a log line carries; `kasmina.lifecycle.address` has it."""

    @property
    def site(self) -> str:
        """Path of the site."""
        ...

    @property
    def slot(self) -> int:
        """Place in the site, from 0."""
        ...

    @property
    def generation(self) -> int:
        """How often the slot had been re-armed, from 0."""
        ...


class SeedKey(NamedTuple):
    """A seed's address within its run.

    `str` reads `site[slot]#generation`; the site that is the whole model is called so.
    """

    site: str
    slot: int
    generation: int

    def __str__(self) -> str:
        return f"{site_name(self.site)}[{self.slot}]#{self.generation}"


def site_name(path: str) -> str:
    """A site's path as one reads it."""
    return "model" if path in ("", ".") else path


@dataclass(frozen=True, slots=True)
class Record:
    """One event of a log. `record["name"]` reads a field of its kind."""

    run: str
    seq: int
    kind: str
    epoch: int
    step: int
    address: SeedKey | None
    fields: Mapping[str, Any]
    clock: Mapping[str, Any] = field(compare=False)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or the default where the event has none."""
        return self.fields.get(name, default)


def encode(record: Record) -> bytes:
    """Return the record's line with its end."""
    raw: dict[str, Any] = {"v": VERSION}
    raw |= {name: getattr(record, name) for name in ENVELOPE}
    if record.address is not None:
        raw["address"] = record.address._asdict()
    return f"{dump({**raw, **record.fields, 'clock': dict(record.clock)})}\n".encode()


def dump(value: object) -> str:
    """Return compact JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def decode(line: str | bytes, where: str) -> Record:
    """Read a line.

    Args:
        line: without its end, or with it.
        where: file and line, for messages.

    Raises:
        LogError: the line is not legal.
    """
    raw = parse(line, where)
    if (version := raw.pop("v", None)) != VERSION:
        raise LogError(
            f"{where}: schema version {version!r}; this kasmina reads version {VERSION}: read the "
            "log with the release that wrote it"
        )
    missing = [name for name in (*ENVELOPE, "clock") if name not in raw]
    if missing:
        raise LogError(f"{where}: the event lacks {', '.join(map(repr, missing))}")
    envelope = {name: raw.pop(name) for name in ENVELOPE}
    address = seed_key(raw.pop("address"), where) if "address" in raw else None
    clock = raw.pop("clock")
    record = Record(**envelope, address=address, clock=clock, fields=raw)
    check(record, where)
    return record


def parse(line: str | bytes, where: str) -> dict[str, Any]:
    """Read a JSON object strictly: no duplicate keys, no bare NaN; raises LogError."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f'bare {constant}; the log writes "{constant.lower()}"')

    try:
        raw = json.loads(line, object_pairs_hook=_unique, parse_constant=refuse)
    except ValueError as error:
        raise LogError(f"{where}: not a line of a log: {error}") from error
    except RecursionError as error:
        raise LogError(f"{where}: not a line of a log: it is nested too deeply") from error
    if not isinstance(raw, dict):
        raise LogError(f"{where}: not a line of a log: it is no JSON object")
    return raw


def seed_key(raw: object, where: str) -> SeedKey:
    """Read the address of a line; raises LogError."""
    if not isinstance(raw, dict) or set(raw) != set(SeedKey._fields):
        raise LogError(f"{where}: an address is {{site, slot, generation}}, not {raw!r}")
    return SeedKey(**raw)


def check(record: Record, where: str) -> None:
    """Refuse a record that is not legal; raises LogError."""
    fault = _fault(record)
    if fault is not None:
        raise LogError(f"{where}: event {record.seq}: {fault}")


def plain(value: object, name: str) -> Any:
    """Return a value as JSON has it; NaN and infinities become strings.

    Raises:
        LogError: it holds something that a log cannot; the message names the field.
    """
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool:  # most are, and ABCs take long
        return value
    if kind is dict:
        return {str(key): plain(each, f"{name}.{key}") for key, each in value.items()}  # type: ignore[attr-defined]
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(each, f"{name}.{key}") for key, each in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        items = value if isinstance(value, Sequence) else sorted(value)
        return [plain(each, f"{name}[{index}]") for index, each in enumerate(items)]
    if hasattr(value, "tolist"):  # tensors and arrays, of which this room knows nothing else
        return plain(value.tolist(), name)
    raise LogError(
        f"field {name} is a {type(value).__name__}; a log holds numbers, strings, None, sequences "
        "and mappings"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return unique


def _fault(record: Record) -> str | None:
    """Say what is wrong with a record, if anything."""
    counters = (record.seq, record.epoch, record.step)
    if any(type(value) is not int or value < 0 for value in counters):
        return "seq, epoch and step are integers from 0 on"
    if not isinstance(record.run, str) or not record.run or "/" in record.run:
        return f"run is {record.run!r}; a run has a name without a slash"
    if not isinstance(record.clock, Mapping):
        return f"clock is {record.clock!r}; it is an object"
    return _kind_fault(record) or _address_fault(record)


def _kind_fault(record: Record) -> str | None:
    if record.kind not in KINDS:
        near = get_close_matches(str(record.kind), KINDS, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown kind {record.kind!r}; legal are {', '.join(KINDS)}{guess}"
    missing = [name for name in KINDS[record.kind] if name not in record.fields]
    if missing:
        return f"a {record.kind!r} event lacks {', '.join(map(repr, missing))}"
    taken = [name for name in record.fields if name in ("v", *ENVELOPE)]
    return f"field {taken[0]!r} has the name of a part of every event" if taken else None


def _address_fault(record: Record) -> str | None:
    if record.address is None:
        return f"a {record.kind!r} event has an address" if record.kind in ADDRESSED else None
    site, slot, generation = record.address
    if isinstance(site, str) and all(type(n) is int and n >= 0 for n in (slot, generation)):
        return None
    return f"address {record.address!r}: site is a string, slot and generation count from 0"

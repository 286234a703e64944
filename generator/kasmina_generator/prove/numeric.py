"""Numbers at their edges: counters that are wide enough, and rules for NaN and infinity."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Literal

from kasmina_generator.finding import Finding
from kasmina_generator.model import ContextField, Limit, Scalar, Spec, State
from kasmina_generator.number import integer_range
from kasmina_generator.prove.domain import show, step
from kasmina_generator.prove.machine import Machine
from kasmina_generator.prove.segment import horizon

EPOCHS_DTYPE = "int16"  # of the counter where the spec names no state file

Seen = Scalar | Literal["refused"]


def counters(machine: Machine) -> Iterator[Finding]:
    """Every number that epochs are compared with fits into the column that counts them."""
    spec = machine.spec
    columns = spec.columns.columns if spec.columns else ()
    column = next((item for item in columns if item.role == "epochs"), None)
    most = integer_range(column.dtype if column else EPOCHS_DTYPE)[1]
    for state in spec.states:
        needed = _needed(machine, state)
        if needed > most:
            where = f"column {column.name!r} ({column.dtype})" if column else EPOCHS_DTYPE
            what = f"state {state.name!r} counts to {needed}, {where} saturates at {most}"
            hint = "store epochs in a wider dtype, or lower the bound"
            place = column.place if column else state.place
            yield Finding(place, what, hint, (), "counter")
    yield from _codes(spec)


def _needed(machine: Machine, state: State) -> int:
    guards = [edge.guard for edge in machine.edges[state.name]]
    return max(horizon(guards, machine.domains), state.max_epochs or 0, state.min_epochs)


def _codes(spec: Spec) -> Iterator[Finding]:
    """Every column that holds codes of states can hold the largest."""
    largest = max(spec.states, key=lambda state: state.code)
    for column in spec.columns.columns if spec.columns else ():
        if column.role in ("state", "parent", "history"):
            most = integer_range(column.dtype)[1]
            if largest.code > most:
                what = f"column {column.name!r} ({column.dtype}) cannot hold code {largest.code}"
                hint = f"use a wider dtype or a code up to {most} for {largest.name!r}"
                yield Finding(column.place, what, hint, (), "counter")


def missing_values(spec: Spec) -> Iterator[Finding]:
    """Every float32 becomes a value in range, an admitted NaN, or a refusal."""
    for item in spec.context:
        if item.dtype == "float32":
            bad = next((given for given in _classes(item) if not _covered(item, given)), None)
            if bad is not None:
                what = f"context field {item.name!r}: nothing says what guards see of {bad}"
                hint = "give 'nan' and 'infinity' rules, with values inside the range"
                yield Finding(item.place, what, hint, (), "missing values")


def _classes(item: ContextField) -> Iterator[float]:
    """Yield one value of each kind of float32 that a measurement can give."""
    yield from (math.nan, -math.inf, math.inf, 0.0)
    for end in (float(item.low), float(item.high)):
        yield from (step(end, -1, "float32"), end, step(end, 1, "float32"))


def _covered(item: ContextField, given: float) -> bool:
    seen = normalised(item, given)
    if seen is None:
        return False
    if seen == "refused":
        return True
    if math.isnan(seen):
        return "unknown" in (item.nan, item.infinity)
    return item.low <= seen <= item.high


def normalised(item: ContextField, given: float) -> Seen | None:
    """Return what guards see of a float32, None where the rules do not say."""
    value = given
    if math.isnan(value):
        if item.nan is None:
            return None
        if isinstance(item.nan, str):
            return "refused" if item.nan == "refuse" else math.nan
        value = item.nan
    if math.isnan(value):
        return value
    if math.isinf(value):
        if item.infinity is None:
            return None
        if item.infinity != "allowed":
            return "refused" if item.infinity == "refuse" else math.nan
    return max(float(item.low), min(float(item.high), value))


def quantised(spec: Spec) -> Iterator[Finding]:
    """Every limit is stored as its dtype stores it, inside its range."""
    for limit in spec.limits:
        values = (limit.default, limit.low, limit.high)
        if limit.dtype == "float32" and not all(map(is_single, values)):
            what = f"limit {limit.name!r}: {values} are not rounded to float32"
            yield Finding(limit.place, what, "round them when reading", (), "limit")
        if not limit.low <= limit.default <= limit.high:
            what = f"limit {limit.name!r}: default {show(limit.default)} is out of range"
            yield Finding(limit.place, what, "mend the default or the range", (), "limit")


def is_single(value: Scalar) -> bool:
    """Say whether float32 holds a value exactly."""
    if not math.isfinite(value):
        return True
    try:
        return bool(struct.unpack("<f", struct.pack("<f", value))[0] == value)
    except OverflowError:
        return False


def inexact(limit: Limit) -> float | None:
    """Return the limit's default as one writes it, where no float32 holds that; None where one does.

    A backend that compares in double with the number as written takes another edge there.
    """
    if limit.dtype != "float32" or not math.isfinite(limit.default):
        return None
    written = float(show(limit.default))
    return None if written == limit.default else written

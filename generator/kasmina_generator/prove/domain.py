"""Which values a guard can meet in each field and limit, and the few of them that must be tried.

A comparison without arithmetic sees nothing but the order of values. Between two neighbours among
the numbers that matter (literals, ends of ranges, defaults) `k` variables take at most `k`
different values, and the `k` floats after the lower neighbour stand for them. So trying each such
number and the `k` floats above it is exhaustive; the one below is tried for the reader's sake.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass

from kasmina_generator.model import ContextField, Limit, Scalar, Spec


@dataclass(frozen=True, slots=True)
class Domain:
    """Every value of one field or limit, after the field's NaN and infinity rules."""

    name: str
    dtype: str
    low: Scalar
    high: Scalar
    default: Scalar
    infinite: bool  # an infinite end of the range can be met
    nan: bool  # NaN reaches the guards
    is_limit: bool

    def samples(self, numbers: Collection[Scalar], reach: int) -> list[Scalar]:
        """Return the values to try, the default first.

        Args:
            numbers: The numbers that values are compared with; infinite ones included. Those of
                another dtype are passed over: nothing is compared across dtypes.
            reach: How many values above each: the number of variables that are compared.
        """
        if self.dtype == "bool":
            return [value for value in (self.default, not self.default) if self.has(value)]
        own = filter(self._is_own, numbers)
        ordered_numbers = sorted(own, key=lambda value: (math.isinf(value), value))
        places = (0, *range(1, reach + 1), -1)
        near = (step(value, by, self.dtype) for by in places for value in ordered_numbers)
        found = dict.fromkeys(value for value in near if self.has(value))
        ordered = list(dict.fromkeys([self.default, *found]))
        return [*ordered, math.nan] if self.nan else ordered

    def has(self, value: Scalar) -> bool:
        """Say whether a guard can meet `value`, which is no NaN."""
        inside = self.low <= value <= self.high and self._is_own(value)
        return inside and (self.infinite or not math.isinf(value))

    def _is_own(self, value: Scalar) -> bool:
        return isinstance(value, float) is (self.dtype == "float32")


def domains(spec: Spec) -> dict[str, Domain]:
    """Return the domain of each context field and limit by name."""
    found = {item.name: _field(item) for item in spec.context}
    return found | {item.name: _limit(item) for item in spec.limits}


def _field(item: ContextField) -> Domain:
    left = "unknown" in (item.nan, item.infinity) or item.nan != item.nan  # a rule that is NaN
    return Domain(
        name=item.name,
        dtype=item.dtype,
        low=_own(item.low, item.dtype),
        high=_own(item.high, item.dtype),
        default=_own(item.default, item.dtype),
        infinite=item.infinity == "allowed",
        nan=item.dtype == "float32" and left,
        is_limit=False,
    )


def _limit(item: Limit) -> Domain:
    return Domain(
        name=item.name,
        dtype=item.dtype,
        low=_own(item.low, item.dtype),
        high=_own(item.high, item.dtype),
        default=_own(item.default, item.dtype),
        infinite=True,
        nan=False,
        is_limit=True,
    )


def _own(value: Scalar, dtype: str) -> Scalar:
    return float(value) if dtype == "float32" else value


def step(value: Scalar, by: int, dtype: str) -> Scalar:
    """Return the value `by` places after `value` among the values of `dtype`.

    Float32 ends at the infinities; both zeros count as one place.
    """
    if dtype != "float32":
        return value + by
    place = _place(value) + by
    infinity = 0x7F800000
    return _at_place(max(-infinity, min(infinity, place)))


def _place(value: float) -> int:
    """Return the number of float32 values from zero to `value`."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits if bits < 0x80000000 else 0x80000000 - bits


def _at_place(place: int) -> float:
    bits = abs(place) | (0x80000000 if place < 0 else 0)
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def show(value: Scalar) -> str:
    """Return a value as one would write it: the shortest text that gives this float32 again."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    shortest = next(text for text in texts if _single(float(text)) == _single(value))
    return f"{float(shortest):.9g}"


def _single(value: float) -> bytes:
    return struct.pack("<f", value) if abs(value) < 3.5e38 else b"overflows"

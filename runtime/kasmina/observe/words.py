"""Names and figures of a report as one reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from kasmina.observe.record import SeedKey


def seed_name(part: Mapping[str, Any]) -> str:
    """The address of a seed in an action or an architecture."""
    return str(SeedKey(part["site"], part["slot"], part["generation"]))


def some(names: Iterable[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def words(name: str) -> str:
    """A name of the spec as one reads it."""
    return name.lower().replace("_", " ")


def value_text(value: Any) -> str:
    """A setting."""
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value is None else str(value)


def counted(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def giga(flops: float) -> str:
    """FLOPs in thousands of millions."""
    return f"{flops / 1e9:,.2f}" if math.isfinite(flops) else "-"

"""What ranges the names in a guard have."""

from __future__ import annotations

from kasmina_generator.interval import EPOCHS, Range
from kasmina_generator.model import ContextField, Limit, Spec


def range_of_declared(item: ContextField | Limit) -> Range | None:
    """Return what values guards see of a field or limit; None for a bool."""
    if item.dtype == "bool":
        return None
    nan = isinstance(item, ContextField) and "unknown" in (item.nan, item.infinity)
    return Range(item.low, item.high, nan)


def ranges_of(spec: Spec, epochs: Range = EPOCHS) -> dict[str, Range]:
    """Return the range of each number that a spec's guards may name, by name."""
    ranges = {"epochs": epochs}
    declared: tuple[ContextField | Limit, ...] = (*spec.context, *spec.limits)
    for item in declared:
        found = range_of_declared(item)
        if found is not None:
            ranges[item.name] = found
    return ranges

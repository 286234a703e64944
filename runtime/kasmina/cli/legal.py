"""Which field of a message holds what no message can, in the words of who typed it."""

from __future__ import annotations

from math import inf

from msgspec import Struct

from kasmina_generated.messages.types import FIELDS, Field

_SHOWN = 32  # characters of a value


def unfit(message: Struct) -> str | None:
    """Say which field is not legal, its value and what is; None where all are."""
    for field in FIELDS[type(message).__name__]:
        value = getattr(message, field.name)
        found = unfit(value) if isinstance(value, Struct) else _unfit(field, value)
        if found is not None:
            return found
    return None


def _unfit(field: Field, value: object) -> str | None:
    if isinstance(value, str):
        return _unfit_text(field, value)
    if isinstance(value, int | float):
        return _unfit_number(field, value)
    return None


def _unfit_text(field: Field, value: str) -> str | None:
    low, high = field.length or (0, inf)
    if not low <= len(value) <= high:
        return f"{field.name} has {len(value):,} characters; it takes {low:,} to {high:,}"
    try:
        value.encode()
    except UnicodeEncodeError:  # from a shell that was given other bytes
        return f"{field.name} holds bytes that are no text in UTF-8; write it without them"
    return None


def _unfit_number(field: Field, value: float) -> str | None:
    low, high = field.range or (-inf, inf)
    if low <= value <= high:
        return None
    told = str(value)
    told = f"{told[:_SHOWN]}..." if len(told) > _SHOWN else told
    return f"{field.name} is {told}; it takes {low:,} to {high:,}"

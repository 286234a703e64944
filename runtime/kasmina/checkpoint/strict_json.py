"""JSON that means one thing only: no key twice, no NaN, bounded in size and depth."""

from __future__ import annotations

import json
from typing import Any


class NotStrict(ValueError):
    """Text that is no JSON, or JSON that could be read in two ways."""


def loads(text: bytes | bytearray | memoryview) -> Any:
    """Read JSON strictly; raises `NotStrict` with what is wrong."""
    try:
        return json.loads(
            str(text, "utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except NotStrict:
        raise
    except RecursionError:
        raise NotStrict("it is nested too deeply") from None
    except ValueError as error:
        raise NotStrict(f"it is no JSON ({error})") from None


def dumps(value: Any) -> bytes:
    """Write JSON, ASCII only; the value must hold nothing that JSON lacks."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotStrict(f"the key {twice[:100]!r} stands there twice")
    return table


def _no_constant(name: str) -> Any:
    raise NotStrict(f"{name} is no JSON")

"""The whole model as JSON: everything that a spec means, with places, guards as trees and as text."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import PurePath
from typing import Any

from kasmina_generator.emit.prose import prose
from kasmina_generator.expression import (
    All,
    Arithmetic,
    Comparison,
    Constant,
    Field,
    Flag,
    LimitRef,
    Negative,
    Truth,
)
from kasmina_generator.expression import Any as AnyOf
from kasmina_generator.kernels import formula
from kasmina_generator.model import Edge, Place, Spec

SCHEMA = "kasmina/model@1"
_GUARDS = (All, AnyOf, Arithmetic, Comparison, Constant, Field, Flag, LimitRef, Negative, Truth)
_FORMULAS = (formula.Arithmetic, formula.Call, formula.Negative, formula.Number, formula.Variable)
_NODES = (*_GUARDS, *_FORMULAS)


def as_json(spec: Spec) -> str:
    """Return the model as one JSON object.

    NaN and infinities are the strings "nan", "inf" and "-inf"; nodes of guards and of formulas name
    their kind.
    """
    return json.dumps({"schema": SCHEMA, **_plain(spec)}, indent=2, ensure_ascii=False) + "\n"


def _plain(value: object) -> Any:
    if isinstance(value, Place):
        return str(value)
    if dataclasses.is_dataclass(value):
        return _record(value)
    if isinstance(value, tuple | list | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, PurePath) else value


def _record(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = (
        {"node": type(value).__name__.lower()} if isinstance(value, _NODES) else {}
    )
    for field in dataclasses.fields(value):
        plain[field.name] = _plain(getattr(value, field.name))
    if isinstance(value, Edge):
        plain["prose"] = prose(value.guard)
    for name in ("attributes", "arguments"):
        pairs = getattr(value, name, ())
        if pairs and isinstance(pairs[0], tuple):
            plain[name] = dict(pairs)
    return plain

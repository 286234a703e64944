"""One number for what a spec *does*.

Covered: everything that changes behaviour or a generated table. Left out: prose (meanings, guard
texts, which are covered by their trees), places, the file's name, the properties, which change
what is proved and not what runs, the migrations: what is stored stays readable when one is
declared, and the records, kernels and messages, which have digests of their own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from kasmina_generator.kernels.model import KernelSet
from kasmina_generator.messages.model import MessageSchema
from kasmina_generator.model import Spec
from kasmina_generator.record_model import RecordSchema

_LEFT_OUT = frozenset(
    [
        *("meaning", "nan_meaning", "none_meaning", "text", "place", "file", "digest"),
        *("properties", "migrations", "record_files", "kernels", "message_file"),
    ]
)
_ORDER_FREE = frozenset({"attributes", "groups"})  # tables by name; the order changes nothing


def digest_of(spec: Spec | RecordSchema | KernelSet | MessageSchema) -> str:
    """Return the SHA-256 of the spec's canonical form, in hexadecimal."""
    text = json.dumps(_canonical(spec), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: object) -> Any:
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        record = {
            name: _field(name, getattr(value, name)) for name in fields if name not in _LEFT_OUT
        }
        return {"": type(value).__name__, **record}
    if isinstance(value, tuple):
        return [_canonical(item) for item in value]
    return value.hex() if isinstance(value, float) else value


def _field(name: str, value: object) -> Any:
    canonical = _canonical(value)
    if name in _ORDER_FREE:
        return sorted(canonical, key=lambda item: json.dumps(item, sort_keys=True))
    return canonical

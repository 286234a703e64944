"""Numbers as a spec writes them and as each dtype stores them."""

from __future__ import annotations

import math
import re
import struct

from kasmina_generator.document import Scalar

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")

INTEGER_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
LARGEST_FLOAT32 = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
INT16_MAX = (1 << 15) - 1


def integer_range(dtype: str) -> tuple[int, int]:
    """Return the least and the largest value of an integer dtype."""
    if dtype == "uint8":
        return 0, 255
    half = 1 << (INTEGER_BITS[dtype] - 1)
    return -half, half - 1


def parse_integer(scalar: Scalar) -> int | None:
    """Return the integer that a plain scalar writes in decimal, None for anything else."""
    return int(scalar.text) if scalar.plain and _INTEGER.fullmatch(scalar.text) else None


def parse_float(scalar: Scalar) -> float | None:
    """Return the number that a plain scalar writes (YAML 1.2, `.inf` included), or None."""
    if not scalar.plain:
        return None
    if _INFINITY.fullmatch(scalar.text):
        return -math.inf if scalar.text.startswith("-") else math.inf
    return float(scalar.text) if _FLOAT.fullmatch(scalar.text) else None


def parse_boolean(scalar: Scalar) -> bool | None:
    """Return True or False for a plain `true` or `false`, None for anything else."""
    return {"true": True, "false": False}.get(scalar.text) if scalar.plain else None


def round_to_float32(value: float) -> float:
    """Return the nearest float32 (ties to even); what rounds beyond the largest is infinite."""
    if not math.isfinite(value):
        return value
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)

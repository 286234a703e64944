"""The functions of formulas in Triton: the value at `u`, and `g` times the derivative at `u`.

They are those of torch, NaN and infinities included: relu passes a NaN on and has the derivative 0
at 0, gelu is the exact one. All of it is float32.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Function:
    """Source of both, and the functions that these call."""

    value: str
    gradient: str
    calls: tuple[str, ...] = ()


_TANH = "u * (1.0 - u * u * (0.33333334 - u * u * (0.13333334 - u * u * 0.053968254)))"

FUNCTIONS: dict[str, Function] = {
    "relu": Function(
        "tl.maximum(u, 0.0, propagate_nan=tl.PropagateNan.ALL)",
        "tl.where(u <= 0.0, 0.0, g)",
    ),
    "gelu": Function(
        "0.5 * u * (1.0 + tl.erf(u * 0.70710678))",
        "g * (0.5 * (1.0 + tl.erf(u * 0.70710678)) + u * 0.39894228 * tl.exp(-0.5 * u * u))",
    ),
    "sigmoid": Function(
        "1.0 / (1.0 + tl.exp(-u))", "g * _sigmoid(u) * (1.0 - _sigmoid(u))", ("sigmoid",)
    ),
    "silu": Function(
        "u * _sigmoid(u)", "g * _sigmoid(u) * (1.0 + u * (1.0 - _sigmoid(u)))", ("sigmoid",)
    ),
    # Near 0 its series, where the quotient would lose all but the last digits.
    "tanh": Function(
        f"tl.where(tl.abs(u) < 0.2, {_TANH}, 2.0 * _sigmoid(2.0 * u) - 1.0)",
        "g * (1.0 - _tanh(u) * _tanh(u))",
        ("sigmoid", "tanh"),
    ),
    "exp": Function("tl.exp(u)", "g * tl.exp(u)"),
}


@dataclass(frozen=True, slots=True)
class Definition:
    """A function that a kernel calls: `def name(parameters): return source`."""

    name: str
    parameters: str
    meaning: str
    source: str


def definitions(values: set[str], gradients: set[str]) -> list[Definition]:
    """Return the functions that a kernel needs, each after those that it calls.

    Args:
        values: Functions whose value is computed.
        gradients: Functions whose gradient is computed.
    """
    needed = values | {name for each in gradients for name in FUNCTIONS[each].calls}
    needed |= {name for each in needed for name in FUNCTIONS[each].calls}
    known = [(name, FUNCTIONS[name]) for name in ("sigmoid", *FUNCTIONS) if name in needed]
    found = {
        name: Definition(f"_{name}", "u", f"Return {name} of u.", f.value) for name, f in known
    }
    for name in (each for each in FUNCTIONS if each in gradients):
        says = f"Return g times the derivative of {name} at u."
        source = FUNCTIONS[name].gradient
        found[f"{name}'"] = Definition(f"_{name}_gradient", "u, g", says, source)
    return list(found.values())

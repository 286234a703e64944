"""Formulas as Triton expressions; the functions that they call are those of `functions`."""

from __future__ import annotations

from collections.abc import Callable

from kasmina_generator.kernels.formula import (
    Arithmetic,
    Call,
    Formula,
    Incoming,
    Negative,
    Number,
    Pulled,
    Variable,
)

_SUM, _PRODUCT, _SIGN, _ATOM = range(4)
_LEVELS = {"+": _SUM, "-": _SUM, "*": _PRODUCT}


def triton_text(formula: Formula, name: Callable[[str], str], incoming: str = "") -> str:
    """Return a formula as an expression over float32 tiles.

    Args:
        formula: What to write.
        name: What a variable is called in the kernel.
        incoming: What the gradient is called that reaches the formula's value.
    """

    def written(node: Formula, level: int = _SUM) -> str:
        own, text = _ATOM, ""
        match node:
            case Variable():
                text = name(node.name)
            case Incoming():
                text = incoming
            case Number(value=value):
                text, own = repr(value), _SIGN if value < 0 else _ATOM
            case Negative(operand=operand):
                text, own = f"-{written(operand, _SIGN)}", _SIGN
            case Arithmetic(operator=operator, left=left, right=right):
                own = _LEVELS[operator]
                text = f"{written(left, own)} {operator} {written(right, own + 1)}"
            case Call(function=function, operand=operand):
                text = f"_{function}({written(operand)})"
            case Pulled(function=function, operand=operand, gradient=gradient):
                text = f"_{function}_gradient({written(operand)}, {written(gradient)})"
        return text if own >= level else f"({text})"

    return written(formula)

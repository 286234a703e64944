"""Guards as an English sentence; names of the spec stand in backticks."""

from __future__ import annotations

from kasmina_generator.expression import (
    All,
    Any,
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Field,
    Flag,
    LimitRef,
    Negative,
    Truth,
    Value,
)

_RELATIONS = {
    "<": "is below",
    "<=": "is at most",
    ">": "is above",
    ">=": "is at least",
    "==": "equals",
}
_REVERSED = {
    "<": "is above",
    "<=": "is at least",
    ">": "is below",
    ">=": "is at most",
    "==": "equals",
}
_DURATIONS = {
    "<": "fewer than {} passed",
    "<=": "at most {} passed",
    ">": "more than {} passed",
    ">=": "{} passed",
    "==": "exactly {} passed",
}
_OPERATIONS = {"+": "plus", "-": "minus", "*": "times", "/": "over"}


def prose(guard: Expression) -> str:
    """Return the guard as a clause that can follow "when"; "" for a guard that always holds."""
    match guard:
        case Truth(value=True):
            return ""
        case Truth():
            return "never"
        case Flag(operand=operand, negated=negated):
            return f"{_value(operand)} is {'false' if negated else 'true'}"
        case Comparison(operator=operator, left=Field(name="epochs"), right=Constant(value=count)):
            return _DURATIONS[operator].format(_epochs(int(count)))
        case Comparison(operator=operator, left=Constant() as left, right=right):
            return f"{_value(right)} {_REVERSED[operator]} {_value(left)}"
        case Comparison(operator=operator, left=left, right=right):
            return f"{_value(left)} {_RELATIONS[operator]} {_value(right)}"
        case All(operands=operands):
            return _listing("and", _without_weaker_waits(operands), nested=Any, opening="either ")
        case Any(operands=operands):
            return _listing("or", operands, nested=All, opening="both ")


def _without_weaker_waits(operands: tuple[Expression, ...]) -> tuple[Expression, ...]:
    """Leave out `epochs >= 2` beside `epochs >= 12`, which says it as well."""
    waits = {part: count for part in operands if (count := _wait(part)) is not None}
    longest = max(waits.values(), default=0)
    return tuple(part for part in operands if waits.get(part, longest) == longest)


def _wait(part: Expression) -> int | None:
    match part:
        case Comparison(operator=">=", left=Field(name="epochs"), right=Constant(value=count)):
            return int(count)
        case _:
            return None


def _listing(
    word: str, operands: tuple[Expression, ...], nested: type[All | Any], opening: str
) -> str:
    """Join the operands; a mixed one is opened by "either" or "both", so that it reads one way."""
    if len(operands) == 1:
        return prose(operands[0])
    parts = [
        f"{opening}{prose(part)}" if isinstance(part, nested) else prose(part) for part in operands
    ]
    comma = "," if any(isinstance(part, nested) for part in operands) or len(parts) > 2 else ""
    return f"{', '.join(parts[:-1])}{comma} {word} {parts[-1]}"


def _epochs(count: int) -> str:
    return "1 epoch has" if count == 1 else f"{count} epochs have"


def _value(value: Value) -> str:
    match value:
        case Field(name="epochs"):
            return "the number of epochs in the state"
        case Field(name=name) | LimitRef(name=name):
            return f"`{name}`"
        case Constant(value=constant):
            return f"{constant:g}"
        case Negative(operand=operand):
            return f"minus {_value(operand)}"
        case Arithmetic(operator=operator, left=left, right=right):
            return f"({_value(left)} {_OPERATIONS[operator]} {_value(right)})"

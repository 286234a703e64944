"""A machine as SCXML (W3C Recommendation of 2015) with ECMAScript expressions.

One event is one step of one entity: a command by its name, `tick` at an epoch's end, or
`tick.COMMAND` for both at once (`tick_` where an event of the spec is called `tick`). Fields,
limits and `room_CAPACITY` are data that whoever runs the document assigns; fields must have been
normalised (see `Context` of the generated package).
Arithmetic is rounded by `Math.fround`, so it gives the same float32 values as every backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

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
from kasmina_generator.model import Edge, Scalar, Spec, State

MOST_EPOCHS = 32_767  # where the generated packages stop counting as well


def scxml(spec: Spec) -> str:
    """Return the machine as one SCXML document."""
    return "\n".join(_Document(spec).lines()) + "\n"


class _Document:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._tick = "tick_" if any(event.name == "tick" for event in spec.events) else "tick"
        self._commands = {event.name for event in spec.events if event.kind == "command"}

    def lines(self) -> Iterator[str]:
        spec = self._spec
        yield '<?xml version="1.0" encoding="UTF-8"?>'
        yield f"<!-- {_comment(f'{spec.name} version {spec.version}: {spec.meaning}')} -->"
        yield (
            '<scxml xmlns="http://www.w3.org/2005/07/scxml" version="1.0" '
            f'name={quoteattr(spec.name)} datamodel="ecmascript" initial={quoteattr(spec.initial)}>'
        )
        yield "  <datamodel>"
        yield '    <data id="epochs" expr="0"/>'
        for item in spec.context:
            yield f'    <data id="{item.name}" expr="{_literal(item.default)}"/>'
        for limit in spec.limits:
            yield f'    <data id="{limit.name}" expr="{_literal(limit.default)}"/>'
        for capacity in spec.capacities:
            yield f'    <data id="room_{capacity.name}" expr="{_literal(True)}"/>'
        yield "  </datamodel>"
        for state in spec.states:
            yield from self._state(state)
        yield "</scxml>"

    def _state(self, state: State) -> Iterator[str]:
        edges = [edge for edge in self._spec.edges if edge.source == state.name]
        yield f"  <!-- {_comment(f'{state.place}: {state.meaning}')} -->"
        if not edges:
            yield f'  <final id="{state.name}">{_ENTRY}</final>'
            return
        yield f'  <state id="{state.name}">'
        yield f"    {_ENTRY}"
        for edge in edges:
            yield from self._edge(edge)
        yield f'    <transition event="{self._tick}" cond="epochs &lt; {MOST_EPOCHS}">{_OLDER}</transition>'
        yield f'    <transition event="{self._tick}"/>'
        yield "  </state>"

    def _edge(self, edge: Edge) -> Iterator[str]:
        command = edge.event in self._commands
        cond = "" if edge.guard == Truth(True) else condition(edge.guard)
        rooms = [f"room_{capacity}" for capacity in self._asked(edge)]
        if rooms:
            full = _joined("||", [f"{room} === false" for room in rooms])
            yield from self._refusal(
                edge, command, _joined("&&", [part for part in (cond, full) if part])
            )
        event = f"{edge.event} {self._tick}.{edge.event}" if command else self._tick
        attributes = f' event="{event}"{_cond(cond)} target="{edge.target}"'
        yield f"    <!-- {_comment(f'{edge.place}: {edge.event}')} -->"
        if not edge.effects:
            yield f"    <transition{attributes}/>"
            return
        yield f"    <transition{attributes}>"
        for effect in edge.effects:
            yield f'      <log label="effect" expr="\'{effect}\'"/>'
        yield "    </transition>"

    def _refusal(self, edge: Edge, command: bool, cond: str) -> Iterator[str]:
        """Yield what happens where a guard holds and there is no room: the entity stays."""
        yield f"    <!-- {_comment(f'{edge.place}: {edge.event} finds no room')} -->"
        if command:
            yield f'    <transition event="{edge.event}"{_cond(cond)}/>'
        event = f"{self._tick}.{edge.event}" if command else self._tick
        counted = _joined("&&", [cond, f"epochs < {MOST_EPOCHS}"])
        yield f'    <transition event="{event}"{_cond(counted)}>{_OLDER}</transition>'
        yield f'    <transition event="{event}"{_cond(cond)}/>'

    def _asked(self, edge: Edge) -> list[str]:
        return [
            capacity.name
            for capacity in self._spec.capacities
            if edge.target in capacity.states and edge.source not in capacity.states
        ]


_ENTRY = '<onentry><assign location="epochs" expr="0"/></onentry>'
_OLDER = '<assign location="epochs" expr="epochs + 1"/>'


def _cond(text: str) -> str:
    return f" cond={quoteattr(text)}" if text else ""


def _comment(text: str) -> str:
    return escape(" ".join(text.split())).replace("--", "- -")


def condition(guard: Expression) -> str:
    """Return a guard in ECMAScript; also Python reads it, with `and` for `&&` and so on."""
    match guard:
        case Truth(value=value):
            return "true" if value else "false"
        case Flag(operand=operand, negated=negated):
            return f"{operand.name} === {'false' if negated else 'true'}"
        case Comparison(operator=operator, left=left, right=right):
            sign = "===" if operator == "==" else operator
            return f"{_value(left)} {sign} {_value(right)}"
        case All(operands=operands):
            return _joined("&&", [condition(operand) for operand in operands])
        case Any(operands=operands):
            return _joined("||", [condition(operand) for operand in operands])


def _joined(word: str, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f" {word} ".join(f"({part})" for part in parts)


def _value(value: Value) -> str:
    match value:
        case Field(name=name) | LimitRef(name=name):
            return name
        case Constant(value=constant):
            return _literal(constant)
        case Negative(operand=operand):
            return f"-{_value(operand)}" if isinstance(operand, Field) else f"-({_value(operand)})"
        case Arithmetic(operator=operator, left=left, right=right, dtype=dtype):
            text = f"({_value(left)} {operator} {_value(right)})"
            return f"Math.fround{text}" if dtype == "float32" else text


def _literal(value: Scalar) -> str:
    """Return a value as ECMAScript reads it, and Python too, whose interpreters take SCXML as well.

    A number has so many digits that a double holds the same value.
    """
    if isinstance(value, bool):
        return f"1 == {value:d}"
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # infinity, wherever numbers are doubles
    return "0 / 0" if isinstance(value, float) and math.isnan(value) else repr(value)

"""A machine as a picture: Mermaid, which GitHub renders, and DOT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kasmina_generator.expression import Truth
from kasmina_generator.model import Edge, Spec

# Pale fills that carry dark text in light and dark themes alike (Okabe and Ito's hues, lightened).
_FILLS = ("#eceff1", "#cfe8f7", "#ffe3b3", "#c9ecd9", "#f7cfd8", "#e6dcf5", "#fff6b3", "#d9d0c7")
_MERMAID_WORDS = {"class", "classdef", "click", "default", "direction", "end", "note", "state"}


class Arrow(NamedTuple):
    """All edges from one state to another."""

    source: str
    target: str
    events: list[str]


def mermaid(spec: Spec) -> str:
    """Return the machine as a Mermaid state diagram.

    What every state does alike (an unguarded event from all that are no ends to one target) is a
    note at the target instead of an arrow from everywhere. The fill tells the first attribute.
    """
    return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in _mermaid_lines(spec))]) + "\n"


def _mermaid_lines(spec: Spec) -> Iterator[str]:
    yield from (f"{_id(s.name)}: {s.name}" for s in spec.states if _id(s.name) != s.name)
    yield f"[*] --> {_id(spec.initial)}"
    common = common_edges(spec)
    for arrow in arrows([edge for edge in spec.edges if edge not in common]):
        yield f"{_id(arrow.source)} --> {_id(arrow.target)}: {', '.join(arrow.events)}"
    left = {edge.source for edge in spec.edges}
    yield from (f"{_id(state.name)} --> [*]" for state in spec.states if state.name not in left)
    for target in dict.fromkeys(edge.target for edge in common):
        events = dict.fromkeys(edge.event for edge in common if edge.target == target)
        yield f"note right of {_id(target)}: {', '.join(events)} from every state that is no end"
    yield from _classes(spec)


def _id(state: str) -> str:
    return f"{state}_" if state.lower() in _MERMAID_WORDS else state


def _classes(spec: Spec) -> Iterator[str]:
    if not spec.attributes:
        return
    attribute = spec.attributes[0]
    for value in attribute.values:
        name = f"{attribute.name}_{value.name}"
        states = [
            _id(s.name) for s in spec.states if dict(s.attributes)[attribute.name] == value.name
        ]
        if states:
            fill = _FILLS[value.code % len(_FILLS)]
            yield f"classDef {name} fill:{fill},stroke:#546e7a,color:#111111"
            yield f"class {','.join(states)} {name}"


def arrows(edges: list[Edge]) -> list[Arrow]:
    """Return one arrow for all edges between two states, in the order of the edges."""
    events: dict[tuple[str, str], list[str]] = {}
    for edge in edges:
        events.setdefault((edge.source, edge.target), []).append(edge.event)
    return [Arrow(*ends, kept) for ends, kept in events.items()]


def common_edges(spec: Spec) -> list[Edge]:
    """Return the unguarded edges of events that lead from every state but the ends to one target."""
    waiting = {state.name for state in spec.states if not state.terminal}
    plain = [edge for edge in spec.edges if edge.guard == Truth(True)]
    common = set()
    for event, target in {(edge.event, edge.target) for edge in plain}:
        sources = {edge.source for edge in plain if (edge.event, edge.target) == (event, target)}
        if len(waiting) > 1 and sources == waiting:
            common.add((event, target))
    return [edge for edge in plain if (edge.event, edge.target) in common]


def dot(spec: Spec) -> str:
    """Return the machine as a DOT graph, with every edge and its guard."""
    lines = [
        f'digraph "{spec.name}" {{',
        "    rankdir=LR;",
        "    node [shape=box, style=rounded];",
        *(f'    "{state.name}" [peripheries=2];' for state in spec.states if state.terminal),
        "    start [shape=point];",
        f'    start -> "{spec.initial}";',
        *(
            f'    "{edge.source}" -> "{edge.target}" [label="{_label(edge)}"];'
            for edge in spec.edges
        ),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _label(edge: Edge) -> str:
    return f"{edge.event}\\n[{edge.text}]" if edge.text else edge.event

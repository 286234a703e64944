"""The sentences of `lifecycle.md` and of `kasmina spec show`."""

from __future__ import annotations

import math

from kasmina_generator.emit.layout import sentence
from kasmina_generator.emit.prose import prose
from kasmina_generator.model import Capacity, Edge, Property, Spec, State


def passes(spec: Spec, edge: Edge) -> str:
    """Return when an edge is taken, as a sentence."""
    command = any(event.name == edge.event and event.kind == "command" for event in spec.events)
    clause = prose(edge.guard)
    moment = "on command" if command else "at the end of an epoch"
    if clause:
        moment += f", when {clause}"
    elif command:
        moment += ", at any time"
    if edge.recycle:
        moment += "; a new generation begins"
    return sentence(f"{moment}. {edge.meaning}" if edge.meaning else moment)


def stay(state: State) -> str:
    """Return how many epochs a state lasts."""
    if state.terminal:
        return "end"
    if state.max_epochs is None:
        return f"{state.min_epochs} or more"
    return f"{state.min_epochs} to {state.max_epochs}"


def entry_order(capacity: Capacity) -> str:
    """Return who of those that ask for room enters first."""
    orders = {"slot": "the lowest row", "epochs": "the longest in its state, then the lowest row"}
    by_field = f"the largest `{capacity.order}`, then the lowest row"
    return orders.get(capacity.order, by_field)


def statement(declared: Property) -> str:
    """Return what a property claims."""
    names = {role: f"`{name}`" for role, name in declared.arguments}
    return _STATEMENTS[declared.kind].format_map(names)


_STATEMENTS = {
    "must_pass": "Every way to {to} leads through {through}.",
    "handles": "Every state of {in} takes {event}, at any time.",
    "absorbing": "{state} is never left.",
    "reachable": "{state} can be reached.",
    "ctl": "In every run: {formula}.",
    "bounded": "From {from} on, an end comes within a bounded number of epochs.",
}


def plain(value: float | bool | str | None) -> str:
    """Return a value for a reader of the document."""
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else "-∞" if value < 0 else "∞"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def cell(text: str) -> str:
    """Return text on one line that cannot end a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")

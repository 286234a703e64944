"""Declared CTL formulas on the product: from places and regions to a graph, and back to a path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from kasmina_generator.finding import Finding
from kasmina_generator.model import Property, Spec
from kasmina_generator.prove.ctl import Checker, Graph, Marks, Run, explain
from kasmina_generator.prove.evaluate import COMPARE
from kasmina_generator.prove.formula import (
    Both,
    Enabled,
    Epochs,
    Formula,
    In,
    Not,
    Temporal,
    TimedOut,
    Until,
    parse,
)
from kasmina_generator.prove.machine import Move
from kasmina_generator.prove.paths import Step, name, step, values, witness
from kasmina_generator.prove.product import Asked, Product
from kasmina_generator.prove.regions import Region

MOST_NODES = 400_000  # (state, epochs, region); 164,000 take about 2 s


@dataclass(frozen=True)
class Space:
    """The product with its regions as a graph: node = (place, region), hub = place."""

    product: Product

    @cached_property
    def nodes(self) -> list[tuple[int, int]]:
        """Every reachable (place, number of the region), those of one place together."""
        places = self.product.places
        return [
            (place, region)
            for place in sorted(self.product.traces)
            for region in range(len(places[place][0].regions.found))
        ]

    @cached_property
    def hub(self) -> dict[int, int]:
        """The hub of each place."""
        first = len(self.nodes)
        return {place: first + i for i, place in enumerate(sorted(self.product.traces))}

    @cached_property
    def members(self) -> dict[int, list[int]]:
        """The nodes of each place."""
        found: dict[int, list[int]] = {place: [] for place in self.hub}
        for node, (place, _) in enumerate(self.nodes):
            found[place].append(node)
        return found

    @cached_property
    def graph(self) -> Graph:
        """The graph that formulas are checked on."""
        after: list[list[int]] = [self._after(place, region) for place, region in self.nodes]
        after.extend(self.members[place] for place in self.hub)
        return Graph(len(self.nodes), after)

    def _after(self, place: int, region: int) -> list[int]:
        segment, _ = self.product.places[place]
        moves = self.product.moves(segment)[region]
        targets = dict.fromkeys(self.product.target(place, move) for move in moves)
        return [self.hub[target] for target in targets]

    def atom(self, formula: Formula) -> Marks:
        """Return the nodes in which an atom of a formula holds."""
        return self.graph.marks(lambda node: self._holds(formula, *self.nodes[node]))

    def _holds(self, formula: Formula, place: int, region: int) -> bool:
        segment, epochs = self.product.places[place]
        match formula:
            case In(name=found):
                return segment.state.name in self.product.machine.groups[found]
            case Epochs(operator=sign, number=number):
                return COMPARE[sign](epochs, number)
            case TimedOut():
                most = segment.state.max_epochs
                return most is not None and epochs >= most
            case Enabled(event=event):
                enabled = segment.regions.found[region].enabled
                edges = self.product.machine.edges[segment.state.name]
                return any(e.event == event and enabled >> i & 1 for i, e in enumerate(edges))
            case _:
                raise AssertionError(formula)

    def size(self) -> int:
        """Return how many nodes there are, without making them."""
        places = self.product.places
        return sum(len(places[place][0].regions.found) for place in self.product.traces)


def formulas(spec: Spec) -> Iterator[tuple[Property, Formula]]:
    """Yield the declared formulas.

    Raises:
        FormulaError: Where one is none; the reader has refused such a spec.
    """
    places = {state.name for state in spec.states} | {group.name for group in spec.groups}
    events = {event.name for event in spec.events}
    for asked in spec.properties:
        if asked.kind == "ctl":
            yield asked, parse(dict(asked.arguments)["formula"], places, events)


def numbers(formula: Formula) -> Iterator[int]:
    """Yield the numbers that a formula compares epochs with."""
    if isinstance(formula, Epochs):
        yield formula.number
    for part in parts(formula):
        yield from numbers(part)


def asked(spec: Spec) -> Asked:
    """Return how finely the formulas of a spec tell places and regions apart."""
    found = [formula for _, formula in formulas(spec)]
    least = max((number for formula in found for number in numbers(formula)), default=-1)
    events = frozenset(event for formula in found for event in _events(formula))
    return Asked(least, events if found else None)


def _events(formula: Formula) -> Iterator[str]:
    if isinstance(formula, Enabled):
        yield formula.event
    for part in parts(formula):
        yield from _events(part)


def counts(formula: Formula) -> bool:
    """Say whether a formula counts single steps or epochs."""
    if isinstance(formula, Temporal) and formula.path == "X":
        return True
    return isinstance(formula, Epochs | TimedOut) or any(map(counts, parts(formula)))


def speaks_of_all_paths(formula: Formula, *, negated: bool = False) -> bool:
    """Say whether a formula asks for no path: what holds though more were possible then holds."""
    if isinstance(formula, Not):
        return speaks_of_all_paths(formula.operand, negated=not negated)
    if isinstance(formula, Temporal | Until) and (formula.quantifier == "E") is not negated:
        return False
    return all(speaks_of_all_paths(part, negated=negated) for part in parts(formula))


def parts(formula: Formula) -> Iterable[Formula]:
    """Return the operands of a formula."""
    match formula:
        case Not(operand=operand) | Temporal(operand=operand):
            return (operand,)
        case Both(left=left, right=right) | Until(left=left, right=right):
            return (left, right)
        case _:
            return ()


def refuted(space: Space, asked: Property, formula: Formula, checker: Checker) -> Iterator[Finding]:
    """Yield a finding where the formula fails for an entity that begins."""
    marks = checker.marks(formula)
    failing = [node for node in space.members[space.product.start] if not marks[node]]
    runs = [explain(checker, formula, node) for node in failing]
    if runs:
        run = min(runs, key=lambda run: len(run.vertices))
        path = _witness(space, run, values_at_end=any(_events(formula)))
        what = f"property {asked.name!r} does not hold: {dict(asked.arguments)['formula']}"
        hint = "the path shows where it fails"
        if run.loop is not None:
            hint = f"the path returns to {name(space.product, _place(space, run, run.loop))}"
        yield Finding(asked.place, what, hint, path, "ctl")


def _place(space: Space, run: Run, index: int) -> int:
    vertex = run.vertices[index]
    hubs = space.product.traces
    if vertex < len(space.nodes):
        return space.nodes[vertex][0]
    return sorted(hubs)[vertex - len(space.nodes)]


def _witness(space: Space, run: Run, *, values_at_end: bool) -> tuple[str, ...]:
    """Return the path of a run; where guards matter, with the values that it ends in."""
    product = space.product
    steps: list[Step] = []
    for vertex, target in zip(run.vertices[::2], run.vertices[1::2], strict=False):
        place, number = space.nodes[vertex]
        region, move = _move(space, place, number, target)
        steps.append(step(product, place, region, move))
    path = witness(product, _place(space, run, 0), steps)
    last = run.vertices[-1]
    if not values_at_end or last >= len(space.nodes):
        return path
    place, number = space.nodes[last]
    row = product.places[place][0].regions.found[number].row
    return (*path[:-1], f"{path[-1]} {values(row)}".strip())


def _move(space: Space, place: int, number: int, hub: int) -> tuple[Region, Move]:
    """Return the move by which a node comes to a hub."""
    segment, _ = space.product.places[place]
    moves = space.product.moves(segment)[number]
    move = next(m for m in moves if space.hub[space.product.target(place, m)] == hub)
    return segment.regions.found[number], move

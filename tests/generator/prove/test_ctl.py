"""The model checker against a definition of each operator that is plainly right."""

from __future__ import annotations

import random
from itertools import product

import pytest

from kasmina_generator.prove.ctl import Checker, Graph, Marks, explain
from kasmina_generator.prove.formula import (
    Always,
    Both,
    Formula,
    In,
    Not,
    Temporal,
    Until,
    parse,
)

ATOMS = ("p", "q")
Edges = list[tuple[int, ...]]


def sample(seed: int) -> tuple[Graph, dict[str, set[int]], Edges]:
    """Return a small graph, the nodes of each atom, and the same as edges between nodes only."""
    random_ = random.Random(seed)
    places = random_.randint(2, 4)
    members: list[list[int]] = [[] for _ in range(places)]
    nodes = random_.randint(places, 7)
    for node in range(nodes):
        members[node if node < places else random_.randrange(places)].append(node)
    after = [random_.sample(range(places), random_.randint(1, 2)) for _ in range(nodes)]
    hubs = [[nodes + place for place in targets] for targets in after]
    graph = Graph(nodes, [*hubs, *members])
    flat = [tuple(n for place in targets for n in members[place]) for targets in after]
    holds = {atom: {n for n in range(nodes) if random_.random() < 0.5} for atom in ATOMS}
    return graph, holds, flat


def slow(formula: Formula, edges: Edges, holds: dict[str, set[int]]) -> set[int]:
    """Return where a formula holds, by fixed points as the textbook writes them."""
    everywhere = set(range(len(edges)))
    match formula:
        case Always():
            return everywhere
        case In(name=name):
            return holds[name]
        case Not(operand=operand):
            return everywhere - slow(operand, edges, holds)
        case Both(left=left, right=right):
            return slow(left, edges, holds) & slow(right, edges, holds)
        case Temporal(quantifier=quantifier, path=path, operand=operand):
            inner = slow(operand, edges, holds)
            if path == "X":
                return ahead(quantifier, inner, edges)
            if path == "F":
                return least(quantifier, everywhere, inner, edges)
            return greatest(quantifier, inner, edges)
        case Until(quantifier=quantifier, left=left, right=right):
            return least(quantifier, slow(left, edges, holds), slow(right, edges, holds), edges)
    raise AssertionError(formula)


def ahead(quantifier: str, found: set[int], edges: Edges) -> set[int]:
    """Return the nodes of which some successor, or each, is in `found`."""
    some = any if quantifier == "E" else all
    return {n for n, targets in enumerate(edges) if some(t in found for t in targets)}


def least(quantifier: str, left: set[int], right: set[int], edges: Edges) -> set[int]:
    """Return the least fixed point of `right or left and next`."""
    found = set(right)
    while (more := right | left & ahead(quantifier, found, edges)) != found:
        found = more
    return found


def greatest(quantifier: str, inner: set[int], edges: Edges) -> set[int]:
    """Return the greatest fixed point of `inner and next`."""
    found = set(inner)
    while (fewer := inner & ahead(quantifier, found, edges)) != found:
        found = fewer
    return found


def checker(graph: Graph, holds: dict[str, set[int]]) -> Checker:
    """Return a checker whose atoms are the names of states."""

    def atom(formula: Formula) -> Marks:
        assert isinstance(formula, In)
        return graph.marks(lambda node: node in holds[formula.name])

    return Checker(graph, atom)


UNARY = ("AX", "AF", "AG", "EX", "EF", "EG", "!")
TEXTS = [
    *(f"{op} p" for op in UNARY),
    *(f"{a} {b} (p | q)" for a, b in product(UNARY, UNARY)),
    "A[p U q]",
    "E[p U q]",
    "A[p U EG q]",
    "AG(p -> AF q)",
    "p <-> EX q",
    "E[!p U p & AX q]",
]


@pytest.mark.parametrize("text", TEXTS)
def test_every_operator_is_its_definition(text: str) -> None:
    """On 60 small graphs with hubs, the same nodes as by fixed points."""
    formula = parse(text, ATOMS, ())
    for seed in range(60):
        graph, holds, edges = sample(seed)
        marks = checker(graph, holds).marks(formula)
        found = {node for node in range(graph.nodes) if marks[node]}
        assert found == slow(formula, edges, holds), seed


@pytest.mark.parametrize("text", TEXTS)
def test_every_explanation_is_a_path(text: str) -> None:
    """It begins in the node, follows edges, and a loop returns to where it says."""
    formula = parse(text, ATOMS, ())
    for seed in range(30):
        graph, holds, _ = sample(seed)
        checked = checker(graph, holds)
        for node in range(graph.nodes):
            run = explain(checked, formula, node)
            assert run.vertices[0] == node
            for here, there in zip(run.vertices, run.vertices[1:], strict=False):
                assert there in graph.after[here]
            if run.loop is not None:
                assert run.vertices[run.loop] == run.vertices[-1]


def test_a_large_graph_takes_seconds() -> None:
    """164,000 nodes in a chain: four formulas, no recursion."""
    count = 164_000
    chain = [[count + min(node + 1, count - 1)] for node in range(count)]
    graph = Graph(count, [*chain, *([node] for node in range(count))])
    checked = checker(graph, {"p": {count - 1}, "q": set()})
    for text, holds in [("AF p", 1), ("EF q", 0), ("AG !q", 1), ("A[!p U p]", 1)]:
        assert checked.marks(parse(text, ATOMS, ()))[0] == holds

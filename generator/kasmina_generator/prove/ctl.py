"""Model checking of CTL on a graph of whole numbers, with paths that show why.

Every vertex is a *node*, in which formulas hold or not, or a *hub*, which only gathers the nodes of
one place: an entity that comes there is in any of them. Every operator is one walk along edges
backwards with a counter at each vertex (Clarke, Emerson and Sistla 1986), so it takes time in
proportion to the graph. AX, AF, AG and AU are the negations of EX, EG, EU and both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kasmina_generator.prove.formula import Always, Both, Formula, Not, Path, Temporal, Until

Marks = bytearray  # one 0 or 1 for each vertex


@dataclass(frozen=True)
class Graph:
    """Vertices `0..nodes-1` are nodes, the rest hubs; a path that goes on for ever never stops."""

    nodes: int
    after: Sequence[Sequence[int]]  # the successors of each vertex

    @cached_property
    def before(self) -> list[list[int]]:
        """The predecessors of each vertex."""
        found: list[list[int]] = [[] for _ in self.after]
        for vertex, targets in enumerate(self.after):
            for target in targets:
                found[target].append(vertex)
        return found

    def marks(self, holds: Callable[[int], bool]) -> Marks:
        """Return the marks of the nodes in which something holds; hubs get none."""
        hubs = len(self.after) - self.nodes
        return bytearray(map(holds, range(self.nodes))) + bytearray(hubs)

    def hubs(self, marks: Marks, value: int) -> Marks:
        """Return the marks with every hub set to `value`."""
        return marks[: self.nodes] + bytearray([value]) * (len(self.after) - self.nodes)

    def complement(self, marks: Marks) -> Marks:
        """Return the marks of the nodes that have none."""
        return self.hubs(bytearray(1 - mark for mark in marks), 0)

    def next(self, marks: Marks) -> Marks:
        """EX: the nodes from which one step can lead to a marked one."""
        found = bytearray(len(marks))
        for vertex in range(self.nodes):
            if marks[vertex]:
                for hub in self.before[vertex]:
                    if not found[hub]:
                        found[hub] = 1
                        for node in self.before[hub]:
                            found[node] = 1
        return self.hubs(found, 0)

    def until(self, left: Marks, right: Marks) -> Marks:
        """EU: the nodes from which nodes of `left` can lead to one of `right`."""
        allowed = self.hubs(left, 1)
        found = self.hubs(right, 0)
        queue = deque(vertex for vertex in range(self.nodes) if found[vertex])
        while queue:
            for vertex in self.before[queue.popleft()]:
                if allowed[vertex] and not found[vertex]:
                    found[vertex] = 1
                    queue.append(vertex)
        return self.hubs(found, 0)

    def always(self, marks: Marks) -> Marks:
        """EG: the nodes from which a path can stay in marked ones for ever; hubs keep theirs."""
        ways = [len(targets) for targets in self.after]
        alive = bytearray(
            mark and way > 0 for mark, way in zip(self.hubs(marks, 1), ways, strict=True)
        )
        queue = deque(vertex for vertex in range(len(ways)) if not alive[vertex])
        while queue:
            for vertex in self.before[queue.popleft()]:
                ways[vertex] -= 1
                if alive[vertex] and not ways[vertex]:
                    alive[vertex] = 0
                    queue.append(vertex)
        return alive


@dataclass
class Checker:
    """Decides formulas on a graph; `atom` gives the nodes in which an atom holds."""

    graph: Graph
    atom: Callable[[Formula], Marks]
    known: dict[Formula, Marks] = field(default_factory=dict)

    def marks(self, formula: Formula) -> Marks:
        """Return the nodes in which a formula holds."""
        if formula not in self.known:
            self.known[formula] = self._marks(formula)
        return self.known[formula]

    def _marks(self, formula: Formula) -> Marks:
        graph = self.graph
        match formula:
            case Always():
                return bytearray(b"\x01") * len(graph.after)
            case Not(operand=operand):
                return graph.complement(self.marks(operand))
            case Both(left=left, right=right):
                pairs = zip(self.marks(left), self.marks(right), strict=True)
                return bytearray(a & b for a, b in pairs)
            case Temporal(quantifier="E", path="X", operand=operand):
                return graph.next(self.marks(operand))
            case Temporal(quantifier="E", path="F", operand=operand):
                return graph.until(self.marks(Always()), self.marks(operand))
            case Temporal(quantifier="E", path="G", operand=operand):
                return graph.hubs(graph.always(self.marks(operand)), 0)
            case Until(quantifier="E", left=left, right=right):
                return graph.until(self.marks(left), self.marks(right))
            case Temporal() | Until():
                return self.marks(existential(formula))
            case _:
                return self.atom(formula)


def existential(formula: Temporal | Until) -> Formula:
    """Return a formula on all paths as one that some path refutes."""
    if isinstance(formula, Until):
        lost = Both(Not(formula.left), Not(formula.right))
        never = Temporal("E", "G", Not(formula.right))
        return Not(_either(Until("E", Not(formula.right), lost), never))
    opposite: dict[str, Path] = {"X": "X", "F": "G", "G": "F"}
    return Not(Temporal("E", opposite[formula.path], Not(formula.operand)))


def _either(left: Formula, right: Formula) -> Formula:
    return Not(Both(Not(left), Not(right)))


@dataclass(frozen=True, slots=True)
class Run:
    """A path of vertices; where it goes on for ever, it returns from its end to `loop`."""

    vertices: tuple[int, ...]
    loop: int | None = None  # a place in `vertices`


def explain(checker: Checker, formula: Formula, node: int) -> Run:
    """Return a path that shows why a formula holds in a node, or why it does not.

    One path cannot show that something holds on all of them; it ends where that begins.
    """
    holds = bool(checker.marks(formula)[node])
    match formula:
        case Not(operand=operand):
            return explain(checker, operand, node)
        case Both(left=left, right=right):
            first = left if not checker.marks(left)[node] or _is_state(right) else right
            if not holds and checker.marks(left)[node]:
                first = right
            return explain(checker, first, node)
        case Temporal(quantifier="A") | Until(quantifier="A"):
            return explain(checker, existential(formula), node)
        case Temporal(path=path, operand=operand) if holds:
            return _shown(checker, path, operand, node)
        case Until(left=left, right=right) if holds:
            found = _shortest(checker.graph, node, checker.marks(left), checker.marks(right))
            return _then(found, explain(checker, right, found[-1]))
        case _:
            return Run((node,))


def _is_state(formula: Formula) -> bool:
    """Say whether a formula speaks of no path."""
    match formula:
        case Not(operand=operand):
            return _is_state(operand)
        case Both(left=left, right=right):
            return _is_state(left) and _is_state(right)
        case Temporal() | Until():
            return False
        case _:
            return True


def _shown(checker: Checker, path: str, operand: Formula, node: int) -> Run:
    graph, marks = checker.graph, checker.marks(operand)
    if path == "G":
        return _lasso(graph, node, graph.always(marks))
    if path == "F":
        found = _shortest(graph, node, graph.complement(bytearray(len(marks))), marks)
    else:
        found = next(
            (node, hub, end) for hub in graph.after[node] for end in graph.after[hub] if marks[end]
        )
    return _then(found, explain(checker, operand, found[-1]))


def _then(path: tuple[int, ...], rest: Run) -> Run:
    loop = None if rest.loop is None else rest.loop + len(path) - 1
    return Run(path[:-1] + rest.vertices, loop)


def _shortest(graph: Graph, start: int, left: Marks, right: Marks) -> tuple[int, ...]:
    """Return a shortest path from `start` through `left` to a node of `right`; one exists."""
    allowed = graph.hubs(left, 1)
    came: dict[int, int] = {start: -1}
    queue = deque([start])
    while queue:
        vertex = queue.popleft()
        if vertex < graph.nodes and right[vertex]:
            return _back(came, vertex)
        if allowed[vertex]:
            for target in graph.after[vertex]:
                if target not in came:
                    came[target] = vertex
                    queue.append(target)
    raise AssertionError("there is no such path")


def _back(came: dict[int, int], vertex: int) -> tuple[int, ...]:
    path = [vertex]
    while came[path[-1]] >= 0:
        path.append(came[path[-1]])
    return tuple(path[::-1])


def _lasso(graph: Graph, start: int, alive: Marks) -> Run:
    """Return a path that stays in `alive` until it comes back to where it was."""
    path, seen = [start], {start: 0}
    while True:
        vertex = next(target for target in graph.after[path[-1]] if alive[target])
        if vertex in seen:
            return Run((*path, vertex), seen[vertex])
        seen[vertex] = len(path)
        path.append(vertex)

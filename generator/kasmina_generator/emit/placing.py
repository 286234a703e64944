"""Places the boxes and arrows of a picture in layers, from top to bottom.

After Sugiyama, Tagawa and Toda (1981): arrows that close a circle are turned round, each box gets
the layer of the longest way to it, layers are ordered by the means of neighbours so that few arrows
cross, and positions are the least squares ones under the distances that must be kept. The text of
an arrow is a box of its own between two layers, so that nothing is written over anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

GAP = 26.0  # between neighbours of a layer
NARROW = 12.0  # where one of them is only an arrow that passes
LAYER = 22.0  # between layers
SWEEPS = 24


class Size(NamedTuple):
    """Of a box, in pixels."""

    width: float
    height: float


class Point(NamedTuple):
    """The middle of a box, or a place on an arrow."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Link:
    """An arrow to be placed; `text` is the size of what is written on it."""

    source: str
    target: str
    text: Size


@dataclass(frozen=True, slots=True)
class Route:
    """Where an arrow runs, from its source to its target, and the middle of its text."""

    points: tuple[Point, ...]
    text: Point


@dataclass(frozen=True, slots=True)
class Placing:
    """Where everything is; the routes are in the order of the links."""

    boxes: dict[str, Point]
    routes: tuple[Route, ...]
    size: Size


def place(boxes: Mapping[str, Size], links: Sequence[Link]) -> Placing:
    """Return the places of boxes and arrows.

    Args:
        boxes: By name; the first one stands at the top.
        links: Arrows between different boxes.
    """
    return _Layout(boxes, links).placing()


@dataclass
class _Node:
    """A box, the text of an arrow, or a layer that an arrow passes."""

    layer: int
    size: Size
    link: int | None = None  # of which arrow, for what is no box
    x: float = 0.0
    above: list[_Node] = field(default_factory=list, repr=False)
    below: list[_Node] = field(default_factory=list, repr=False)

    @property
    def left(self) -> float:
        return self.x - self.size.width / 2

    @property
    def right(self) -> float:
        return self.x + self.size.width / 2


class _Layout:
    def __init__(self, boxes: Mapping[str, Size], links: Sequence[Link]) -> None:
        self.links = links
        self.turned = _turned(list(boxes), links)
        ranks = _ranks(list(boxes), [self._downwards(i) for i in range(len(links))])
        self.boxes = {name: _Node(2 * ranks[name], size) for name, size in boxes.items()}
        self.chains = [self._chain(number) for number in range(len(links))]
        nodes = [*self.boxes.values(), *(node for chain in self.chains for node in chain)]
        depth = max((node.layer for node in nodes), default=0) + 1
        self.layers: list[list[_Node]] = [[] for _ in range(depth)]
        for node in nodes:
            self.layers[node.layer].append(node)

    def _downwards(self, number: int) -> tuple[str, str]:
        link = self.links[number]
        ends = (link.source, link.target)
        return ends[::-1] if number in self.turned else ends

    def _chain(self, number: int) -> list[_Node]:
        """Return a node for each layer that an arrow passes; the first one holds its text."""
        top, bottom = (self.boxes[name] for name in self._downwards(number))
        text = self.links[number].text
        layers = range(top.layer + 1, bottom.layer)
        written = layers[-1] if number in self.turned else layers[0]
        chain = [_Node(i, text if i == written else Size(0, 0), number) for i in layers]
        for upper, lower in zip([top, *chain], [*chain, bottom], strict=True):
            upper.below.append(lower)
            lower.above.append(upper)
        return chain

    def placing(self) -> Placing:
        self._order()
        self._spread()
        tops = self._heights()
        left = min((node.left for layer in self.layers for node in layer), default=0.0)
        right = max((node.right for layer in self.layers for node in layer), default=0.0)
        for layer in self.layers:
            for node in layer:
                node.x -= left
        boxes = {n: Point(b.x, tops[b.layer] + b.size.height / 2) for n, b in self.boxes.items()}
        routes = tuple(self._route(number, tops) for number in range(len(self.links)))
        height = tops[-1] - LAYER if self.boxes else 0.0
        return Placing(boxes, routes, Size(right - left, height))

    def _order(self) -> None:
        """Order the layers so that few arrows cross: the best of some sweeps down and up."""
        best, fewest = [list(layer) for layer in self.layers], _crossings(self.layers)
        for sweep in range(SWEEPS):
            down = sweep % 2 == 0
            for layer in self.layers if down else reversed(self.layers):
                _sort_by_neighbours(layer, self.layers, down)
            for layer in self.layers:
                _swap_neighbours(layer, self.layers)
            crossings = _crossings(self.layers)
            if crossings < fewest:
                best, fewest = [list(layer) for layer in self.layers], crossings
        self.layers = best

    def _spread(self) -> None:
        """Move each node towards its neighbours, as far as the others of its layer let it."""
        for layer in self.layers:
            edge = 0.0
            for before, node in zip([None, *layer], layer, strict=False):
                edge += _distance(before, node) if before else 0.0
                node.x = edge
        for sweep in range(2 * SWEEPS):
            for layer in self.layers if sweep % 2 == 0 else reversed(self.layers):
                _relax(layer)
        for chain in sorted(self.chains, key=len, reverse=True):
            self._straighten(chain)

    def _straighten(self, chain: list[_Node]) -> None:
        """Put as much of an arrow as has room there upright, over the longest stretch of it."""
        spaces = [self._space(node) for node in chain]
        start = 0
        while start < len(chain):
            low, high, end = *spaces[start], start + 1
            while end < len(chain) and max(low, spaces[end][0]) <= min(high, spaces[end][1]):
                low, high = max(low, spaces[end][0]), min(high, spaces[end][1])
                end += 1
            mean = sum(node.x for node in chain[start:end]) / (end - start)
            for node in chain[start:end]:
                node.x = max(low, min(high, mean))
            start = end

    def _space(self, node: _Node) -> tuple[float, float]:
        """Return between which places a node may move without coming too near to others."""
        layer = self.layers[node.layer]
        at = next(i for i, other in enumerate(layer) if other is node)
        low = layer[at - 1].x + _distance(layer[at - 1], node) if at else -math.inf
        after = layer[at + 1] if at + 1 < len(layer) else None
        return low, after.x - _distance(node, after) if after else math.inf

    def _heights(self) -> list[float]:
        """Return the top of each layer, and where the next one would be."""
        tops = [0.0]
        for layer in self.layers:
            highest = max((node.size.height for node in layer), default=0.0)
            tops.append(tops[-1] + highest + LAYER)
        return tops

    def _route(self, number: int, tops: list[float]) -> Route:
        names, chain = self._downwards(number), self.chains[number]
        top, bottom = (self.boxes[name] for name in names)
        start = Point(_port(top, top.below, chain[0]), tops[top.layer] + top.size.height)
        end = Point(_port(bottom, bottom.above, chain[-1]), tops[bottom.layer])
        points = [start]
        for node in chain:
            upper, lower = tops[node.layer], tops[node.layer + 1] - LAYER
            points += [Point(node.x, upper), Point(node.x, lower)]
        points.append(end)
        if number in self.turned:
            points.reverse()
        written = max(chain, key=lambda node: node.size.width)
        middle = (tops[written.layer] + tops[written.layer + 1] - LAYER) / 2
        return Route(tuple(points), Point(written.x, middle))


def _turned(names: Sequence[str], links: Sequence[Link]) -> set[int]:
    """Return the arrows that close a circle on the way down from the first box, or lead to it.

    None is left that leads down to the first box, so that it stands at the top.
    """
    leaving: dict[str, list[int]] = {name: [] for name in names}
    for number, link in enumerate(links):
        leaving[link.source] += [number] if link.target != names[0] else []
    turned = {number for number, link in enumerate(links) if link.target == names[0]}
    done: set[str] = set()
    for root in names:
        path: list[tuple[str, list[int]]] = [] if root in done else [(root, leaving[root][::-1])]
        open_ = {root}
        while path:
            name, rest = path[-1]
            if not rest:
                path.pop()
                open_.discard(name)
                done.add(name)
                continue
            number = rest.pop()
            target = links[number].target
            if target in open_:
                turned.add(number)
            elif target not in done:
                open_.add(target)
                path.append((target, leaving[target][::-1]))
    return turned


def _ranks(names: Sequence[str], ends: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the longest way to each box, in arrows that all lead down."""
    before: dict[str, int] = dict.fromkeys(names, 0)
    after: dict[str, list[str]] = {name: [] for name in names}
    for source, target in ends:
        before[target] += 1
        after[source].append(target)
    ranks = dict.fromkeys(names, 0)
    ready = [name for name in names if not before[name]]
    while ready:
        name = ready.pop()
        for target in after[name]:
            ranks[target] = max(ranks[target], ranks[name] + 1)
            before[target] -= 1
            if not before[target]:
                ready.append(target)
    return ranks


def _sort_by_neighbours(layer: list[_Node], layers: Sequence[Sequence[_Node]], down: bool) -> None:
    """Sort a layer by the mean place of its neighbours in the layer before it."""
    number = layer[0].layer if layer else 0
    other = number - 1 if down else number + 1
    if not 0 <= other < len(layers):
        return
    places = {id(node): place for place, node in enumerate(layers[other])}
    own = {id(node): place for place, node in enumerate(layer)}

    def mean(node: _Node) -> float:
        found = [places[id(n)] for n in (node.above if down else node.below) if id(n) in places]
        return sum(found) / len(found) if found else float(own[id(node)])

    layer.sort(key=mean)


def _swap_neighbours(layer: list[_Node], layers: Sequence[Sequence[_Node]]) -> None:
    """Swap neighbours of a layer where fewer of their arrows cross then."""
    if not layer:
        return
    near = [layers[i] for i in (layer[0].layer - 1, layer[0].layer + 1) if 0 <= i < len(layers)]
    places = {id(node): place for other in near for place, node in enumerate(other)}
    for place in range(len(layer) - 1):
        left, right = layer[place], layer[place + 1]
        if _crossed(right, left, places) < _crossed(left, right, places):
            layer[place], layer[place + 1] = right, left


def _crossed(left: _Node, right: _Node, places: Mapping[int, int]) -> int:
    """Return how many arrows of two nodes cross each other if one is left of the other."""
    sides = ((left.above, right.above), (left.below, right.below))
    return sum(places[id(a)] > places[id(b)] for one, two in sides for a in one for b in two)


def _crossings(layers: Sequence[Sequence[_Node]]) -> int:
    """Return how often arrows cross between neighbouring layers."""
    count = 0
    for layer, following in pairwise(layers):
        places = {id(node): place for place, node in enumerate(following)}
        ends = [end for node in layer for end in sorted(places[id(n)] for n in node.below)]
        count += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return count


def _distance(left: _Node, right: _Node) -> float:
    gap = GAP if left.size.width and right.size.width else NARROW
    return (left.size.width + right.size.width) / 2 + gap


def _relax(layer: list[_Node]) -> None:
    """Move a layer to where it is nearest to its neighbours while distances are kept.

    Without its distances a layer is free to be any rising sequence, so this is an isotonic
    regression: neighbours that would pass each other are pooled at their weighted mean.
    """
    offsets = [0.0]
    for left, right in pairwise(layer):
        offsets.append(offsets[-1] + _distance(left, right))
    pools: list[tuple[float, float, int]] = []  # sum of weighted places, weight, nodes
    for node, offset in zip(layer, offsets, strict=False):
        wanted, weight = _wanted(node)
        total, count = (wanted - offset) * weight, 1
        while pools and pools[-1][0] / pools[-1][1] > total / weight:
            more, heavier, nodes = pools.pop()
            total, weight, count = total + more, weight + heavier, count + nodes
        pools.append((total, weight, count))
    places = [total / weight for total, weight, count in pools for _ in range(count)]
    for node, offset, start in zip(layer, offsets, places, strict=False):
        node.x = start + offset


def _wanted(node: _Node) -> tuple[float, float]:
    """Return where a node would like to be, and how much: arrows that pass should be straight."""
    neighbours = [*node.above, *node.below]
    if not neighbours:
        return node.x, 0.1
    weights = [4.0 if node.link is not None and n.link is not None else 1.0 for n in neighbours]
    total = sum(n.x * weight for n, weight in zip(neighbours, weights, strict=True))
    return total / sum(weights), sum(weights)


def _port(box: _Node, neighbours: Iterable[_Node], chosen: _Node) -> float:
    """Return where on the side of a box an arrow to a neighbour begins: side by side, in order."""
    ordered = sorted(neighbours, key=lambda node: node.x)
    place = next(i for i, node in enumerate(ordered) if node is chosen)
    step = min(26.0, box.size.width * 0.8 / len(ordered))
    return box.x + (place - (len(ordered) - 1) / 2) * step

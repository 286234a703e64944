"""The regions of a state: every combination of guards that some values let hold together.

Guards fall apart into comparisons. Comparisons that share no field and no limit are independent,
so each connected group (`Component`) is settled alone: by trying values (see `domain`), or by Z3
where a guard computes or where there would be too many to try. Sets of sample rows are bits of one
Python integer, so that a guard over 10,000 rows is a handful of `&` and `|`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

from kasmina_generator.expression import All, Any, Expression, Truth
from kasmina_generator.model import Scalar
from kasmina_generator.prove.domain import Domain
from kasmina_generator.prove.evaluate import (
    Atom,
    atoms,
    constants,
    holds,
    is_ordering,
    variables,
)

MOST_SAMPLES = 40_000  # rows tried for one component; more go to Z3
MOST_TRIED = 2_000  # rows tried before Z3 is asked for the combinations that did not come up
MOST_COMBINATIONS = 1 << 14  # of the components of one state; more are left to queries by Z3
MOST_PAIRS = 500  # of vectors of two components, tried before Z3 is asked
MOST_ASSUMED = 12  # comparisons of which every combination is assumed where Z3 is missing

How = Literal["enumerated", "z3", "assumed"]


@dataclass(frozen=True, slots=True)
class Vector:
    """One attainable combination of a component's comparisons, with values that give it."""

    truth: int  # bit i: the component's i-th comparison holds
    row: dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class Component:
    """Comparisons that hang together by the fields and limits that they read.

    `choices` says what is left to the fields once the limits are fixed: for each distinct set of
    vectors (bits by place in `vectors`) that some limits leave, those limits. It is known where
    every row was tried.
    """

    atoms: tuple[Atom, ...]
    vectors: tuple[Vector, ...]
    choices: tuple[tuple[int, dict[str, Scalar]], ...]
    how: How


@dataclass(frozen=True, slots=True)
class Region:
    """Values under which the same guards of a state hold."""

    enabled: int  # bit i: the i-th guard holds
    row: dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class Regions:
    """Every region of a list of guards.

    `choices` lists, for limits that an adversary picks, the regions (bits by place) that remain.
    `how` is "assumed" where a combination may stand here that no values give.
    """

    found: tuple[Region, ...]
    choices: tuple[tuple[int, dict[str, Scalar]], ...]
    how: How
    tried: int = 0


Question = tuple[int, int]  # guards that must hold, guards that must not: bits
Solve = Callable[[tuple[Atom, ...], Mapping[str, Domain], Sequence[Vector]], "list[Vector] | None"]
Query = Callable[
    [tuple[Expression, ...], Sequence[Question], Mapping[str, Domain], Sequence[Region]],
    "list[Region] | None",
]


@dataclass
class Finder:
    """Finds regions, and remembers those of each component.

    `solve` and `query` come from Z3 (`smt`) and give None where it cannot tell in time; without
    them what cannot be enumerated is assumed.
    """

    domains: Mapping[str, Domain]
    solve: Solve | None = None
    query: Query | None = None
    known: dict[tuple[Atom, ...], Component] = field(default_factory=dict)

    def regions(
        self, guards: tuple[Expression, ...], questions: Sequence[Question] = ()
    ) -> Regions:
        """Return the regions of `guards`.

        Args:
            guards: Without `epochs`: see `evaluate.at_epochs`.
            questions: Where there are too many combinations, one region is found for each of
                these that can hold at all, and no more.
        """
        parts = [self.component(group) for group in grouped(guards)]
        hows = {part.how for part in parts}
        how: How = "assumed" if "assumed" in hows else "z3" if "z3" in hows else "enumerated"
        if not all(part.vectors for part in parts):
            return _independent(guards)
        combinations = math.prod(len(part.vectors) for part in parts)
        if combinations <= MOST_COMBINATIONS:
            return _combined(guards, parts, combinations, how)
        if not questions:
            return Regions((), (), "assumed")
        known = _some(guards, parts)
        found = self.query(guards, questions, self.domains, known) if self.query else None
        if found is None:
            return _independent(guards)
        everything = (1 << len(found)) - 1
        return Regions(tuple(found), ((everything, {}),), "z3", len(found))

    def component(self, group: tuple[Atom, ...]) -> Component:
        """Return the attainable vectors of comparisons that hang together."""
        if group not in self.known:
            self.known[group] = self._component(group)
        return self.known[group]

    def _component(self, group: tuple[Atom, ...]) -> Component:
        names = dict.fromkeys(v.name for atom in group for v in variables(atom))
        scope = [self.domains[name] for name in names]
        samples = _samples(group, scope)
        if all(map(is_ordering, group)) and math.prod(map(len, samples.values())) <= MOST_SAMPLES:
            return _enumerated(group, scope, samples)
        found = _enumerated(group, scope, _fewer(samples)).vectors
        if len(found) == 1 << len(group):  # no combination is left to ask for
            return Component(group, found, _any_choice(found), "enumerated")
        vectors = self.solve(group, self.domains, found) if self.solve else None
        if vectors is None:
            return _assumed(group)
        return Component(group, tuple(vectors), _any_choice(vectors), "z3")


def grouped(guards: Sequence[Expression]) -> list[tuple[Atom, ...]]:
    """Return the comparisons of all guards, those that share a variable together."""
    groups: list[tuple[set[str], list[Atom]]] = []
    for atom in dict.fromkeys(atom for guard in guards for atom in atoms(guard)):
        names = {variable.name for variable in variables(atom)}
        joined = [group for group in groups if group[0] & names]
        groups = [group for group in groups if not group[0] & names]
        members = [member for group in joined for member in group[1]]
        groups.append((names.union(*(group[0] for group in joined)), [*members, atom]))
    return [tuple(members) for _, members in groups]


def _samples(group: tuple[Atom, ...], scope: list[Domain]) -> dict[str, list[Scalar]]:
    """Return the values to try by name, limits first: their defaults stay the longest."""
    numbers = [domain for domain in scope if domain.dtype != "bool"]
    critical = {value for atom in group for value in constants(atom)}
    critical |= {end for item in numbers for end in (item.low, item.high, item.default)}
    ordered = sorted(scope, key=lambda domain: not domain.is_limit)
    return {domain.name: domain.samples(critical, max(len(numbers), 1)) for domain in ordered}


def _enumerated(
    group: tuple[Atom, ...], scope: list[Domain], samples: dict[str, list[Scalar]]
) -> Component:
    rows = [dict(zip(samples, row, strict=True)) for row in itertools.product(*samples.values())]
    sets = [_bits(holds(atom, row) for row in rows) for atom in group]
    blocks = split(len(rows), sets)
    vectors = tuple(Vector(truth, rows[_first(block)]) for truth, block in blocks)
    limits = [domain.name for domain in scope if domain.is_limit]
    per_limits = len(rows) // math.prod(len(samples[name]) for name in limits)
    choices: dict[int, dict[str, Scalar]] = {}
    for start in range(0, len(rows), per_limits):
        window = ((1 << per_limits) - 1) << start
        left = _bits(bool(block & window) for _, block in blocks)
        choices.setdefault(left, {name: rows[start][name] for name in limits})
    return Component(group, vectors, _least(choices), "enumerated")


def _fewer(samples: dict[str, list[Scalar]]) -> dict[str, list[Scalar]]:
    """Return so few values of each name that their combinations can be tried quickly."""
    each = int(MOST_TRIED ** (1 / len(samples)))
    return {name: values[:each] for name, values in samples.items()}


def _any_choice(vectors: Sequence[Vector]) -> tuple[tuple[int, dict[str, Scalar]], ...]:
    """Return that any limits leave everything: nothing better is known without enumeration."""
    return (((1 << len(vectors)) - 1, {}),)


def _least(choices: dict[int, dict[str, Scalar]]) -> tuple[tuple[int, dict[str, Scalar]], ...]:
    """Keep the sets that hold no other: more choice never hurts the one who chooses."""
    return tuple(
        (left, limits)
        for left, limits in choices.items()
        if not any(other != left and other & left == other for other in choices)
    )


def _assumed(group: tuple[Atom, ...]) -> Component:
    """Return a component of which nothing is known: all combinations, none if they are many."""
    count = 1 << len(group) if len(group) <= MOST_ASSUMED else 0
    vectors = tuple(Vector(truth, {}) for truth in range(count))
    return Component(group, vectors, _any_choice(vectors), "assumed")


def _bits(flags: Iterator[bool]) -> int:
    """Return the integer whose bit i is the i-th flag."""
    digits = "".join("1" if flag else "0" for flag in flags)
    return int(digits[::-1] or "0", 2)


def _first(block: int) -> int:
    return (block & -block).bit_length() - 1


def split(size: int, sets: Sequence[int]) -> list[tuple[int, int]]:
    """Return (truth, block): rows that lie in the same sets, the block of row 0 first."""
    blocks = [(0, (1 << size) - 1)]
    for place, members in enumerate(sets):
        halves = [(truth | 1 << place, block & members) for truth, block in blocks]
        halves += [(truth, block & ~members) for truth, block in blocks]
        blocks = [half for half in halves if half[1]]
    return sorted(blocks, key=lambda block: _first(block[1]))


def _combined(
    guards: tuple[Expression, ...], parts: list[Component], size: int, how: How
) -> Regions:
    """Return the regions of all combinations of the components' vectors.

    Combination c takes vector `c // stride % count` of each component.
    """
    sets: dict[Atom, int] = {}
    strides: list[int] = []
    stride = 1
    for part in parts:
        count = len(part.vectors)
        strides.append(stride)
        for place, atom in enumerate(part.atoms):
            pattern = _bits(bool(vector.truth >> place & 1) for vector in part.vectors)
            sets[atom] = _spread(pattern, count, stride, size)
        stride *= count
    blocks = split(size, [_members(guard, sets, (1 << size) - 1) for guard in guards])
    found = tuple(Region(truth, _row(parts, strides, _first(block))) for truth, block in blocks)
    choices = _choices(parts, strides, size, [block for _, block in blocks])
    return Regions(found, choices, how, size)


def _some(guards: tuple[Expression, ...], parts: list[Component]) -> tuple[Region, ...]:
    """Return the regions where at most two components do not have their fewest comparisons hold.

    They answer most questions about one edge, or two, at no cost.
    """
    base = [min(range(len(p.vectors)), key=lambda i: p.vectors[i].truth.bit_count()) for p in parts]
    rows: list[dict[int, int]] = [
        {},
        *({p: v} for p, part in enumerate(parts) for v in range(len(part.vectors))),
    ]
    pairs = ({**one, **other} for one, other in itertools.combinations(rows[1:], 2))
    rows += itertools.islice(pairs, MOST_PAIRS)
    choices = [[row.get(place, base[place]) for row in rows] for place in range(len(parts))]
    sets: dict[Atom, int] = {}
    for part, chosen in zip(parts, choices, strict=True):
        for place, atom in enumerate(part.atoms):
            sets[atom] = _bits(bool(part.vectors[v].truth >> place & 1) for v in chosen)
    found = []
    for truth, block in split(len(rows), [_members(g, sets, (1 << len(rows)) - 1) for g in guards]):
        row: dict[str, Scalar] = {}
        for part, chosen in zip(parts, choices, strict=True):
            row |= part.vectors[chosen[_first(block)]].row
        found.append(Region(truth, row))
    return tuple(found)


def _spread(pattern: int, count: int, stride: int, size: int) -> int:
    """Repeat each bit of a pattern `stride` times, and the whole as often as `size` asks."""
    run = (1 << stride) - 1
    period = sum(run << place * stride for place in range(count) if pattern >> place & 1)
    length = count * stride
    return sum(period << start for start in range(0, size, length))


def _members(guard: Expression, sets: Mapping[Atom, int], everything: int) -> int:
    """Return the combinations in which a guard holds."""
    match guard:
        case Truth(value=value):
            return everything if value else 0
        case All(operands=operands):
            return reduce(lambda a, b: a & b, (_members(o, sets, everything) for o in operands))
        case Any(operands=operands):
            return reduce(lambda a, b: a | b, (_members(o, sets, everything) for o in operands))
        case atom:
            return sets[atom]


def _row(parts: list[Component], strides: list[int], place: int) -> dict[str, Scalar]:
    row: dict[str, Scalar] = {}
    for part, stride in zip(parts, strides, strict=True):
        row |= part.vectors[place // stride % len(part.vectors)].row
    return row


MOST_CHOICES = 64  # of limits at once; beyond, the limits stay at one choice for each component


def _choices(
    parts: list[Component], strides: list[int], size: int, blocks: list[int]
) -> tuple[tuple[int, dict[str, Scalar]], ...]:
    """Return what each choice of all limits leaves, as bits over the regions."""
    if math.prod(len(part.choices) for part in parts) > MOST_CHOICES:
        parts = [_first_choice(part) for part in parts]
    choices: dict[int, dict[str, Scalar]] = {}
    for choice in itertools.product(*(part.choices for part in parts)):
        left, limits = (1 << size) - 1, dict[str, Scalar]()
        for part, stride, (bits, values) in zip(parts, strides, choice, strict=True):
            left &= _spread(bits, len(part.vectors), stride, size)
            limits |= values
        choices.setdefault(_bits(bool(block & left) for block in blocks), limits)
    return _least(choices)


def _first_choice(part: Component) -> Component:
    return Component(part.atoms, part.vectors, part.choices[:1], part.how)


def _independent(guards: tuple[Expression, ...]) -> Regions:
    """Return regions for guards of which nothing is known: each alone, all and none."""
    certain = sum(1 << i for i, guard in enumerate(guards) if guard == Truth(True))
    open_ = [i for i, guard in enumerate(guards) if not isinstance(guard, Truth)]
    pairs = [1 << i | 1 << j for i in open_ for j in open_]
    every = dict.fromkeys([certain | pair for pair in (0, sum(1 << i for i in open_), *pairs)])
    found = tuple(Region(enabled, {}) for enabled in every)
    return Regions(found, (((1 << len(found)) - 1, {}),), "assumed", len(found))

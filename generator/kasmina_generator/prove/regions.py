"""The regions of a state: every combination of guards that some values let hold together.

Guards fall apart into comparisons. Comparisons that share no field and no limit are independent,
so each connected group (`Component`) is settled alone: by trying values (see `domain`), or by Z3
where a guard computes or where there would be too many to try. Sets of sample rows are bits of one
Python integer, so that a guard over 10,000 rows is a handful of `&` and `|`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal, Protocol

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

# What an adversary who fixes the limits can leave: bits over vectors or regions, and the limits
# that leave no more; None where nobody knows whether some limits leave so little.
Choice = tuple[int, "dict[str, Scalar] | None"]


@dataclass(frozen=True, slots=True)
class Vector:
    """One combination of a component's comparisons, with values that give it."""

    truth: int  # bit i: the component's i-th comparison holds
    row: dict[str, Scalar]
    sure: bool = True  # False: assumed, no values are known


@dataclass(frozen=True, slots=True)
class Component:
    """Comparisons that hang together by the fields and limits that they read.

    `choices` says what is left to the fields once the limits are fixed: for each distinct set of
    vectors (bits by place in `vectors`) that some limits leave, those limits. It is known where
    every row was tried; elsewhere the worst is taken, that some limits leave one vector alone.
    """

    atoms: tuple[Atom, ...]
    vectors: tuple[Vector, ...]
    choices: tuple[Choice, ...]
    how: How
    complete: bool = True  # no combination is missing from `vectors`


@dataclass(frozen=True, slots=True)
class Region:
    """Values under which the same guards of a state hold."""

    enabled: int  # bit i: the i-th guard holds
    row: dict[str, Scalar]
    sure: bool = True  # False: assumed, no values are known


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions of a list of guards.

    `choices` lists, for limits that an adversary picks, the regions (bits by place) that remain.
    `how` is "assumed" where a region may stand here that no values give. Every region is here, or
    one with the same answers to the views that were asked for, where `complete`.
    """

    found: tuple[Region, ...]
    choices: tuple[Choice, ...]
    how: How
    complete: bool = True

    @property
    def sure(self) -> Regions:
        """Only the regions that values are known of; every other combination is left out."""
        found = tuple(region for region in self.found if region.sure)
        if len(found) == len(self.found):
            return self
        return Regions(found, _worst(0, complete=False), self.how, complete=False)


Question = tuple[int, int]  # guards that must hold, guards that must not: bits


class Oracle(Protocol):
    """What is asked where values cannot all be tried: Z3 (`smt`). None: it cannot tell in time."""

    def vectors(
        self, group: tuple[Atom, ...], domains: Mapping[str, Domain], known: Sequence[Vector]
    ) -> list[Vector] | None:
        """Return every attainable combination of comparisons."""

    def regions(
        self,
        guards: tuple[Expression, ...],
        questions: Sequence[Question],
        domains: Mapping[str, Domain],
        known: Sequence[Region],
    ) -> list[Region] | None:
        """Return the known regions, and one for each question that can be answered at all."""

    def views(
        self,
        guards: tuple[Expression, ...],
        views: Sequence[Question],
        domains: Mapping[str, Domain],
        known: Sequence[Region],
    ) -> list[Region] | None:
        """Return the known regions, and one for each attainable combination of answers."""


@dataclass
class Finder:
    """Finds regions, and remembers those of each component.

    Without an oracle, what cannot be enumerated is assumed.
    """

    domains: Mapping[str, Domain]
    oracle: Oracle | None = None
    known: dict[tuple[Atom, ...], Component] = field(default_factory=dict)

    def regions(
        self,
        guards: tuple[Expression, ...],
        questions: Sequence[Question] = (),
        views: Sequence[Question] = (),
    ) -> Regions:
        """Return the regions of `guards`.

        Args:
            guards: Without `epochs` (see `evaluate.at_epochs`), or with a domain for it.
            questions: Where there are too many combinations, one region is found for each of
                these that can hold at all.
            views: There, one region is found as well for each combination of answers to these;
                without any, the regions are not complete.
        """
        parts = [self.component(group) for group in grouped(guards)]
        hows = {part.how for part in parts}
        how: How = "assumed" if "assumed" in hows else "z3" if "z3" in hows else "enumerated"
        combinations = math.prod(len(part.vectors) for part in parts)
        complete = all(part.complete for part in parts)
        if complete and combinations <= MOST_COMBINATIONS:
            return _combined(guards, parts, combinations, how)
        known = _some(guards, parts)
        asked = None if how == "assumed" else self._asked(guards, questions, views, known)
        return asked or _independent(guards, [region for region in known if region.sure])

    def _asked(
        self,
        guards: tuple[Expression, ...],
        questions: Sequence[Question],
        views: Sequence[Question],
        known: Sequence[Region],
    ) -> Regions | None:
        """Return what the oracle knows of guards with too many combinations."""
        if self.oracle is None or not questions:
            return None
        found = self.oracle.regions(guards, questions, self.domains, known)
        if found is None:
            return None
        listed = self.oracle.views(guards, views, self.domains, found) if views else None
        complete, regions = listed is not None, tuple(listed or found)
        return Regions(regions, _worst(len(regions), complete=complete), "z3", complete)

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
            return Component(group, found, _left(found, scope), "enumerated")
        vectors = self.oracle.vectors(group, self.domains, found) if self.oracle else None
        if vectors is None:
            return _assumed(group, found)
        return Component(group, tuple(vectors), _left(vectors, scope), "z3")


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
    return Component(group, vectors, _least(tuple(choices.items())), "enumerated")


def _fewer(samples: dict[str, list[Scalar]]) -> dict[str, list[Scalar]]:
    """Return so few values of each name that their combinations can be tried quickly."""
    each = int(MOST_TRIED ** (1 / len(samples)))
    return {name: values[:each] for name, values in samples.items()}


def _left(vectors: Sequence[Vector], scope: list[Domain]) -> tuple[Choice, ...]:
    """Return what limits leave where not every row was tried: everything, if there are none."""
    if any(domain.is_limit for domain in scope):
        return _worst(len(vectors))
    return (((1 << len(vectors)) - 1, {}),)


def _worst(count: int, *, complete: bool = True) -> tuple[Choice, ...]:
    """Return that limits may leave any one alone, or one that is missing: nothing leaves less."""
    return tuple((1 << place, None) for place in range(count)) if complete else ((0, None),)


def _least(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Keep the sets that hold no other: more choice never hurts the one who chooses.

    A set that limits are known for is dropped for no other than such a set.
    """
    every = [left for left, _ in choices]
    known = [left for left, limits in choices if limits is not None]
    return tuple(
        (left, limits)
        for left, limits in choices
        if not any(
            other != left and other & left == other
            for other in (every if limits is None else known)
        )
    )


def _assumed(group: tuple[Atom, ...], found: Sequence[Vector]) -> Component:
    """Return all combinations, those that no values were found for as assumed.

    If there are too many, the others are left out.
    """
    vectors = {vector.truth: vector for vector in found}
    complete = len(group) <= MOST_ASSUMED
    for truth in range(1 << len(group)) if complete else ():
        vectors.setdefault(truth, Vector(truth, {}, sure=False))
    every = tuple(vectors.values())
    return Component(group, every, _worst(len(every)), "assumed", complete)


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
    sure = _sure(parts, strides, size)
    found = tuple(
        Region(truth, _row(parts, strides, _first(block & sure or block)), bool(block & sure))
        for truth, block in blocks
    )
    choices = _choices(parts, strides, size, [block for _, block in blocks])
    return Regions(found, choices, how)


def _sure(parts: list[Component], strides: list[int], size: int) -> int:
    """Return the combinations of which values are known."""
    everything = (1 << size) - 1
    for part, stride in zip(parts, strides, strict=True):
        if part.how == "assumed":
            pattern = _bits(vector.sure for vector in part.vectors)
            everything &= _spread(pattern, len(part.vectors), stride, size)
    return everything


def _some(guards: tuple[Expression, ...], parts: list[Component]) -> tuple[Region, ...]:
    """Return the regions where at most two components do not have their fewest comparisons hold.

    They answer most questions about one edge, or two, at no cost.
    """
    base = [min(range(len(p.vectors)), key=lambda i: _plainness(p.vectors[i])) for p in parts]
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
        chosen_vectors = [p.vectors[c[_first(block)]] for p, c in zip(parts, choices, strict=True)]
        for vector in chosen_vectors:
            row |= vector.row
        found.append(Region(truth, row, all(vector.sure for vector in chosen_vectors)))
    return tuple(found)


def _plainness(vector: Vector) -> tuple[bool, int]:
    return (not vector.sure, vector.truth.bit_count())


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


MOST_CHOICES = 1 << 10  # of limits at once; beyond, what they leave is not known


def _choices(
    parts: list[Component], strides: list[int], size: int, blocks: list[int]
) -> tuple[Choice, ...]:
    """Return what each choice of all limits leaves, as bits over the regions."""
    if math.prod(len(part.choices) for part in parts) > MOST_CHOICES:
        return _worst(len(blocks))
    choices: dict[int, dict[str, Scalar] | None] = {}
    for choice in itertools.product(*(part.choices for part in parts)):
        left, limits = (1 << size) - 1, dict[str, Scalar]()
        for part, stride, (bits, values) in zip(parts, strides, choice, strict=True):
            left &= _spread(bits, len(part.vectors), stride, size)
            limits |= values or {}
        known = all(values is not None for _, values in choice)
        remaining = _bits(bool(block & left) for block in blocks)
        if choices.get(remaining) is None:
            choices[remaining] = limits if known else None
    return _least(tuple(choices.items()))


def _independent(guards: tuple[Expression, ...], sure: Sequence[Region]) -> Regions:
    """Return regions for guards of which little is known: those, and what else is assumed.

    Every combination is, or where there are too many each guard alone, each two, all and none.
    """
    certain = sum(1 << i for i, guard in enumerate(guards) if guard == Truth(True))
    open_ = [1 << i for i, guard in enumerate(guards) if not isinstance(guard, Truth)]
    complete = len(open_) <= MOST_ASSUMED
    if complete:
        some = [
            sum(bits) for n in range(len(open_) + 1) for bits in itertools.combinations(open_, n)
        ]
    else:
        some = [0, sum(open_), *(one | other for one in open_ for other in open_)]
    found = {region.enabled: region for region in sure}
    for each in some:
        found.setdefault(certain | each, Region(certain | each, {}, sure=False))
    choices = _worst(len(found), complete=complete)
    return Regions(tuple(found.values()), choices, "assumed", complete)

"""How two guards relate, by proof over every value that either spec lets them see.

Shape decides first, then every region of the values (`prove.regions`), then Z3 for guards that
compute or have too many regions. What none of them decides is called unproved; values that are
found on the way still count, because a witness is a proof of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kasmina_generator.expression import Expression
from kasmina_generator.implication import implies
from kasmina_generator.model import Scalar, Spec
from kasmina_generator.number import INT16_MAX
from kasmina_generator.prove.domain import Domain, domains
from kasmina_generator.prove.evaluate import variables
from kasmina_generator.prove.regions import Finder, Question, Region, Regions
from kasmina_generator.prove.smt import NoSolver, solver

Row = dict[str, Scalar]
Relation = Literal["equal", "stronger", "weaker", "different", "unproved"]

EPOCHS = Domain("epochs", "int32", 0, INT16_MAX, 0, infinite=False, nan=False, is_limit=False)


@dataclass(frozen=True, slots=True)
class Relating:
    """How a new guard relates to an old one; the rows are witnesses of either direction."""

    relation: Relation
    proof: str
    lost: Row | None = None  # passes the old guard only
    gained: Row | None = None  # passes the new guard only


@dataclass(frozen=True, slots=True)
class _Answer:
    """Whether some values pass one guard and not another: a row, surely none, or not known."""

    row: Row | None
    known: bool


@dataclass
class GuardProver:
    """Relates the guards of two specs; remembers what it has been asked."""

    old: Spec
    new: Spec
    _relations: dict[tuple[Expression, Expression], Relating] = field(default_factory=dict)
    _domains: dict[str, Domain] = field(init=False)
    _clashes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        here, there = domains(self.old), domains(self.new)
        both = here.keys() & there.keys()
        self._clashes = frozenset(n for n in both if here[n].dtype != there[n].dtype)
        joined = {name: _hull(here[name], there[name]) for name in both - self._clashes}
        self._domains = {"epochs": EPOCHS, **here, **there, **joined}

    def relate(self, old: Expression, new: Expression) -> Relating:
        """Return how `new` relates to `old`: stronger passes less, weaker passes more."""
        if (old, new) not in self._relations:
            self._relations[old, new] = self._relate(old, new)
        return self._relations[old, new]

    def _relate(self, old: Expression, new: Expression) -> Relating:
        if clash := self._clash(old, new):
            return Relating("unproved", f"the dtype of '{clash}' changed")
        if implies(old, new) and implies(new, old):
            return Relating("equal", "by shape")
        questions: list[Question] = [(1, 2), (2, 1)]
        (lost, gained), proof = self._answers((old, new), questions)
        sides = (_Answer(None, True) if implies(old, new) else lost,
                 _Answer(None, True) if implies(new, old) else gained)  # fmt: skip
        return Relating(_relation(*sides), proof, sides[0].row, sides[1].row)

    def together(self, one: Expression, other: Expression) -> tuple[Row | None, bool]:
        """Return values that pass both guards, and whether their lack is proved."""
        if self._clash(one, other):
            return None, False
        (both,), _ = self._answers((one, other), [(3, 0)])
        return both.row, both.known

    def _clash(self, one: Expression, other: Expression) -> str | None:
        names = (v.name for guard in (one, other) for v in variables(guard))
        return next((name for name in names if name in self._clashes), None)

    def _answers(
        self, guards: tuple[Expression, Expression], questions: list[Question]
    ) -> tuple[list[_Answer], str]:
        """Return an answer to each question, and what it rests on."""
        regions = Finder(self._domains).regions(guards)
        proof = "by trying a value from every region"
        if regions.how == "assumed":
            regions, proof = self._by_solver(guards, questions)
        known, found = regions.how != "assumed", regions.sure.found
        return [_Answer(_first(found, question), known) for question in questions], proof

    def _by_solver(
        self, guards: tuple[Expression, Expression], questions: list[Question]
    ) -> tuple[Regions, str]:
        try:
            z3 = solver()
        except NoSolver as error:
            return Finder(self._domains).regions(guards), str(error)
        regions = Finder(self._domains, z3).regions(guards, questions)
        return regions, "z3 gave up" if regions.how == "assumed" else "by z3, in float32"


def _hull(one: Domain, other: Domain) -> Domain:
    """Return every value that either declaration lets guards see."""
    return Domain(
        name=one.name,
        dtype=one.dtype,
        low=min(one.low, other.low),
        high=max(one.high, other.high),
        default=other.default,
        infinite=one.infinite or other.infinite,
        nan=one.nan or other.nan,
        is_limit=one.is_limit and other.is_limit,
    )


def _first(found: tuple[Region, ...], question: Question) -> Row | None:
    must, must_not = question
    rows = (r.row for r in found if r.enabled & must == must and not r.enabled & must_not)
    return next(rows, None)


def _relation(lost: _Answer, gained: _Answer) -> Relation:
    if lost.row is not None and gained.row is not None:
        return "different"
    if not (lost.known and gained.known):
        return "unproved"
    if lost.row is not None:
        return "stronger"
    return "weaker" if gained.row is not None else "equal"

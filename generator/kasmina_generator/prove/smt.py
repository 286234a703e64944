"""Guards as Z3 formulas over IEEE floats: what trying values cannot decide.

z3-solver is an extra (`pip install kasmina[verify]`) and is imported by `solver` only. Floats are
`FPSort(8, 24)` and every operation rounds to nearest, ties to even, as in every backend; integers
are bit vectors of 32 bits, of which the reader has proved that they do not overflow. Every model
that Z3 gives is evaluated again by the prover's own interpreter, and must agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any as Term

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
from kasmina_generator.model import Scalar
from kasmina_generator.prove.domain import Domain
from kasmina_generator.prove.evaluate import Atom, holds, variables
from kasmina_generator.prove.regions import Question, Region, Vector

MOST_VECTORS = 1 << 12  # of one component
MOST_VIEWS = 1 << 10  # of one state
EFFORT = 40_000_000  # Z3's own count of steps for one question: about 10 s, on any machine alike
ALL_EFFORT = 10 * EFFORT  # of one proof; what is asked beyond is not known


class NoSolver(Exception):
    """z3-solver is not installed."""


class GaveUp(Exception):
    """Z3 cannot tell within its effort."""


@dataclass
class Solver:
    """Answers questions about guards, and remembers the answers."""

    z3: Term
    terms: dict[tuple[str, str], Term] = field(default_factory=dict)
    known: dict[object, list[Vector] | None] = field(default_factory=dict)
    lemmas: dict[str, bool | None] = field(default_factory=dict)
    wrong: dict[tuple[float, float], float | None] = field(default_factory=dict)
    left: int = ALL_EFFORT

    def begin(self) -> None:
        """Begin a proof, with its whole effort left."""
        self.left = ALL_EFFORT

    def vectors(
        self, group: tuple[Atom, ...], domains: Mapping[str, Domain], known: Sequence[Vector]
    ) -> list[Vector] | None:
        """Return every attainable combination of comparisons; None where Z3 gave up.

        Args:
            group: The comparisons.
            domains: The values that their variables may have.
            known: Combinations that values were found for already.
        """
        key = (group, tuple(domains[variable.name] for variable in _distinct(group)))
        if key not in self.known:
            found = self._vectors(group, domains, known)
            if found is None and self.left <= 0:
                return None  # another proof may have more effort left
            self.known[key] = found
        return self.known[key]

    def _vectors(
        self, group: tuple[Atom, ...], domains: Mapping[str, Domain], known: Sequence[Vector]
    ) -> list[Vector] | None:
        solver = self._solver(group, domains)
        marks = [self._boolean(atom) for atom in group]
        found = list(known)
        for vector in known:
            solver.add(self._other_than(marks, vector.truth))
        try:
            while len(found) <= MOST_VECTORS and (row := self._row(solver, group)) is not None:
                truth = _held(group, row)
                found.append(Vector(truth, row))
                solver.add(self._other_than(marks, truth))
        except GaveUp:
            return None
        return found if len(found) <= MOST_VECTORS else None

    def _other_than(self, marks: list[Term], truth: int) -> Term:
        values = [self.z3.BoolVal(bool(truth >> place & 1)) for place in range(len(marks))]
        return self.z3.Or([mark != value for mark, value in zip(marks, values, strict=True)])

    def regions(
        self,
        guards: tuple[Expression, ...],
        questions: Sequence[Question],
        domains: Mapping[str, Domain],
        known: Sequence[Region],
    ) -> list[Region] | None:
        """Return the known regions, and one for each question that only other values answer."""
        found = {region.enabled: region for region in known}
        open_ = [(m, n) for m, n in questions if not any(e & m == m and not e & n for e in found)]
        if not open_:
            return list(known)
        solver = self._solver(guards, domains)
        terms = [self._boolean(guard) for guard in guards]
        for question in open_:
            solver.push()
            solver.add(self._answer(terms, question))
            try:
                row = self._row(solver, guards)
            except GaveUp:
                return None
            solver.pop()
            if row is not None:
                enabled = _held(guards, row)
                found.setdefault(enabled, Region(enabled, row))
        return list(found.values())

    def views(
        self,
        guards: tuple[Expression, ...],
        views: Sequence[Question],
        domains: Mapping[str, Domain],
        known: Sequence[Region],
    ) -> list[Region] | None:
        """Return the known regions, and one for each other combination of answers to `views`."""
        solver = self._solver(guards, domains)
        terms = [self._boolean(guard) for guard in guards]
        marks = [self._answer(terms, view) for view in views]
        found = {region.enabled: region for region in known}
        seen = {_seen(views, enabled) for enabled in found}
        for answers in seen:
            solver.add(self._other_than(marks, answers))
        try:
            while len(seen) <= MOST_VIEWS and (row := self._row(solver, guards)) is not None:
                enabled = _held(guards, row)
                found[enabled] = Region(enabled, row)
                seen.add(_seen(views, enabled))
                solver.add(self._other_than(marks, _seen(views, enabled)))
        except GaveUp:
            return None
        return list(found.values()) if len(seen) <= MOST_VIEWS else None

    def _answer(self, terms: list[Term], view: Question) -> Term:
        must, must_not = view
        parts = [term for i, term in enumerate(terms) if must >> i & 1]
        parts += [self.z3.Not(term) for i, term in enumerate(terms) if must_not >> i & 1]
        return self.z3.And(parts)

    def widening_is_harmless(self) -> bool | None:
        """Prove that two float32 numbers compare alike in float32 and in double; None: gave up.

        This is what a backend does that keeps its numbers as Python floats. `<=` is enough, for
        all pairs and NaN: `a < b` is `a <= b and not b <= a`, and `==` is `<=` both ways.
        """
        one, other = self._float("one"), self._float("other")
        differ = self.z3.fpLEQ(one, other) != self._wide_leq(one, other)
        return self._lemma("any two", differ)

    def stored_agrees(self, stored: float) -> bool | None:
        """Prove for one stored limit that every float32 compares with it alike in double."""
        value = self._float("value")
        limit = self._literal(stored, "float32")
        below = self.z3.fpLEQ(value, limit) != self._wide_leq(value, limit)
        above = self.z3.fpLEQ(limit, value) != self._wide_leq(limit, value)
        return self._lemma(stored.hex(), self.z3.Or(below, above))

    def _lemma(self, name: str, never: Term) -> bool | None:
        if name not in self.lemmas:
            self.lemmas[name] = self._never(never)
        return self.lemmas[name]

    def text_differs(self, stored: float, written: float) -> float | None:
        """Return a float32 on which a double comparison with the text is wrong, None for none."""
        if (stored, written) not in self.wrong:
            self.wrong[stored, written] = self._text_differs(stored, written)
        return self.wrong[stored, written]

    def _text_differs(self, stored: float, written: float) -> float | None:
        z3 = self.z3
        value, double = self._float("value"), z3.FPVal(written, z3.Float64())
        wide = z3.fpFPToFP(z3.RNE(), value, z3.Float64())
        solver = z3.Solver()
        solver.add(z3.fpLT(value, self._literal(stored, "float32")) != z3.fpLT(wide, double))
        if solver.check() != z3.sat:
            return None
        return float(self._scalar(solver.model().eval(value, model_completion=True)))

    def _wide_leq(self, left: Term, right: Term) -> Term:
        z3 = self.z3
        wide = [z3.fpFPToFP(z3.RNE(), term, z3.Float64()) for term in (left, right)]
        return z3.fpLEQ(*wide)

    def _never(self, term: Term) -> bool | None:
        solver = self.z3.Solver()
        solver.set("rlimit", EFFORT)
        solver.add(term)
        try:
            return self._impossible(solver)
        except GaveUp:
            return None

    def _impossible(self, solver: Term) -> bool:
        if self.left <= 0:
            raise GaveUp
        before = _effort(solver)
        result = solver.check()
        self.left -= _effort(solver) - before
        if result == self.z3.unknown:
            raise GaveUp
        return bool(result == self.z3.unsat)

    def _solver(self, guards: Iterable[Expression], domains: Mapping[str, Domain]) -> Term:
        solver = self.z3.Solver()
        solver.set("rlimit", EFFORT)
        for variable in _distinct(guards):
            solver.add(*self._inside(self._variable(variable), domains[variable.name]))
        return solver

    def _row(self, solver: Term, guards: Iterable[Expression]) -> dict[str, Scalar] | None:
        """Return values that satisfy the solver, None where there are none."""
        if self._impossible(solver):
            return None
        model = solver.model()
        names = _distinct(guards)
        terms = [model.eval(self._variable(v), model_completion=True) for v in names]
        return {v.name: self._scalar(term) for v, term in zip(names, terms, strict=True)}

    def _inside(self, term: Term, domain: Domain) -> list[Term]:
        z3 = self.z3
        if domain.dtype == "bool":
            values = {domain.low, domain.high}
            return [] if len(values) > 1 else [term == z3.BoolVal(bool(domain.low))]
        low, high = (
            self._literal(domain.low, domain.dtype),
            self._literal(domain.high, domain.dtype),
        )
        if domain.dtype != "float32":
            return [term >= low, term <= high]
        inside = z3.And(z3.fpGEQ(term, low), z3.fpLEQ(term, high))
        if not domain.infinite:
            inside = z3.And(inside, z3.Not(z3.fpIsInf(term)))
        return [z3.Or(inside, z3.fpIsNaN(term)) if domain.nan else inside]

    def _variable(self, variable: Field | LimitRef) -> Term:
        key = (variable.name, variable.dtype)
        if key not in self.terms:
            sorts = {"float32": self._float, "bool": self.z3.Bool, "int32": self._integer}
            self.terms[key] = sorts[variable.dtype](variable.name)
        return self.terms[key]

    def _float(self, name: str) -> Term:
        return self.z3.FP(name, self.z3.FPSort(8, 24))

    def _integer(self, name: str) -> Term:
        return self.z3.BitVec(name, 32)

    def _literal(self, value: Scalar, dtype: str) -> Term:
        if dtype == "float32":
            return self.z3.FPVal(value, self.z3.FPSort(8, 24))
        return self.z3.BitVecVal(int(value), 32)

    def _scalar(self, term: Term) -> Scalar:
        z3 = self.z3
        if z3.is_bool(term):
            return bool(z3.is_true(term))
        if z3.is_bv(term):
            return int(term.as_signed_long())
        if term.isNaN():
            return math.nan
        if term.isInf():
            return -math.inf if term.isNegative() else math.inf
        return _from_parts(term)

    def _number(self, value: Value) -> Term:
        z3 = self.z3
        match value:
            case Constant(value=constant, dtype=dtype):
                return self._literal(constant, dtype)
            case Field() | LimitRef():
                return self._variable(value)
            case Negative(operand=operand):
                return -self._number(operand)
            case Arithmetic(operator=sign, left=left, right=right, dtype=dtype):
                a, b = self._number(left), self._number(right)
                if dtype != "float32":
                    return {"+": a + b, "-": a - b, "*": a * b}[sign]
                operate = {"+": z3.fpAdd, "-": z3.fpSub, "*": z3.fpMul, "/": z3.fpDiv}[sign]
                return operate(z3.RNE(), a, b)

    def _boolean(self, expression: Expression) -> Term:
        z3 = self.z3
        match expression:
            case Truth(value=value):
                return z3.BoolVal(value)
            case Flag(operand=operand, negated=negated):
                term = self._variable(operand)
                return z3.Not(term) if negated else term
            case Comparison(operator=sign, left=left, right=right):
                a, b = self._number(left), self._number(right)
                if z3.is_fp(a):
                    return _FLOAT_COMPARE[sign](z3)(a, b)
                return _BITS_COMPARE[sign](a, b)
            case All(operands=operands):
                return z3.And([self._boolean(operand) for operand in operands])
            case Any(operands=operands):
                return z3.Or([self._boolean(operand) for operand in operands])


_FLOAT_COMPARE = {
    "<": lambda z3: z3.fpLT,
    "<=": lambda z3: z3.fpLEQ,
    ">": lambda z3: z3.fpGT,
    ">=": lambda z3: z3.fpGEQ,
    "==": lambda z3: z3.fpEQ,
}
_BITS_COMPARE = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
}


def _held(guards: Sequence[Expression], row: Mapping[str, Scalar]) -> int:
    """Return which guards hold in a row, by the prover's own interpreter."""
    return sum(1 << i for i, guard in enumerate(guards) if holds(guard, row))


def _seen(views: Sequence[Question], enabled: int) -> int:
    """Return which views a region answers with yes."""
    answers = (enabled & must == must and not enabled & never for must, never in views)
    return sum(1 << i for i, answer in enumerate(answers) if answer)


def _effort(solver: Term) -> int:
    """Return the steps that Z3 has made so far, for all questions."""
    return int(solver.statistics().get_key_value("rlimit count"))


def _from_parts(term: Term) -> float:
    """Return a finite float from sign, exponent and significand, none of which rounds."""
    fraction = term.significand_as_long() / (1 << 23)
    exponent = term.exponent_as_long(biased=True)
    size = math.ldexp(1 + fraction, exponent - 127) if exponent else math.ldexp(fraction, -126)
    return -size if term.isNegative() else size


def _distinct(guards: Iterable[Expression]) -> list[Field | LimitRef]:
    return list(dict.fromkeys(variable for guard in guards for variable in variables(guard)))


@cache
def solver() -> Solver:
    """Return the solver of this process.

    Raises:
        NoSolver: z3-solver is not installed.
    """
    try:
        import z3
    except ImportError as error:
        raise NoSolver("z3 is not installed: pip install 'kasmina[verify]'") from error
    return Solver(z3)

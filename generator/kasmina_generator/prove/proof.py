"""All checks on one machine, and the report of what they found, by which means, in which time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from kasmina_generator.finding import Finding, in_file_order
from kasmina_generator.model import Limit, Property, Spec
from kasmina_generator.prove import declared, lifetimes, local, logic, numeric, smt
from kasmina_generator.prove.ctl import Checker
from kasmina_generator.prove.domain import domains
from kasmina_generator.prove.formula import Formula
from kasmina_generator.prove.lifetimes import Bound
from kasmina_generator.prove.product import Product, build
from kasmina_generator.prove.regions import Finder

Result = TypeVar("Result")
Check = Callable[[Product], Iterator[Finding]]

# These say that something is possible: what holds though steps are left out then holds, and what
# fails though more was assumed possible fails. For all other checks it is the other way round.
_POSSIBLE = frozenset({"unreachable", "edges", "endless", "reachable"})
_ALWAYS = {
    "deterministic": "no two edges of one priority pass at once",
    "total": "time-outs fire",
    "starvation": "no capacity keeps an entity beyond its time",
    "urgency": "urgent events are never kept back",
    "unreachable": "every state is reached",
    "edges": "every transition is taken somewhere",
    "endless": "an end stays possible",
    "livelock": "no unchanging values lead round in circles",
}


@dataclass(frozen=True, slots=True)
class Size:
    """How large the product is: reachable places (state, epochs), regions, and steps."""

    places: int
    nodes: int  # (state, epochs, region)
    steps: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of a machine.

    `proved` says what holds and by what; `unproved` what could not be decided and why; `notes`
    what holds but might surprise; `seconds` is process time by stage.
    """

    findings: tuple[Finding, ...]
    bounds: tuple[Bound, ...]
    proved: tuple[str, ...]
    unproved: tuple[str, ...]
    notes: tuple[str, ...]
    size: Size
    seconds: dict[str, float] = field(compare=False)
    product: Product = field(compare=False, repr=False)


def check(spec: Spec) -> list[Finding]:
    """Return what does not hold of a machine, in the order of the file; see `prove`."""
    return list(prove(spec).findings)


def prove(spec: Spec, *, use_z3: bool = True) -> Proof:
    """Prove or refute everything that a spec promises.

    Args:
        spec: As `read_spec` gives it.
        use_z3: False leaves out Z3 as if it were not installed.
    """
    return _Prover(spec, use_z3).proof()


class _Prover:
    def __init__(self, spec: Spec, use_z3: bool) -> None:
        self.spec = spec
        self.seconds: dict[str, float] = {}
        self.findings: list[Finding] = []
        self.proved: list[str] = []
        self.unproved: list[str] = []
        self.notes: list[str] = []
        self.circles: list[lifetimes.Circle] = []
        self.most: dict[int, dict[int, int]] = {}
        self.solver: smt.Solver | None = None
        with contextlib.suppress(smt.NoSolver):
            self.solver = smt.solver() if use_z3 else None
        if self.solver:
            self.solver.begin()

    def proof(self) -> Proof:
        product = self._timed("product", self._product)
        self._timed("local", lambda: self._local(product))
        most = self._timed("lifetimes", lambda: self._most(product))
        self._timed("properties", lambda: self._declared(product))
        space = logic.Space(product)
        self._timed("ctl", lambda: self._formulas(space))
        self._timed("numbers", lambda: self._numbers(product))
        self._timed("z3", self._lemmas)
        self._means(product)
        return Proof(
            findings=tuple(sorted(self.findings, key=in_file_order)),
            bounds=lifetimes.bounds(product, most),
            proved=tuple(self.proved),
            unproved=tuple(dict.fromkeys(self.unproved)),
            notes=(*self.notes, *_notes(product)),
            size=_size(space),
            seconds=self.seconds,
            product=product,
        )

    def _timed(self, stage: str, work: Callable[[], Result]) -> Result:
        start = time.process_time()
        result = work()
        self.seconds[stage] = time.process_time() - start
        return result

    def _product(self) -> Product:
        return build(self.spec, Finder(domains(self.spec), self.solver), logic.asked(self.spec))

    def _local(self, product: Product) -> None:
        self.circles = lifetimes.circles(product)
        checks: dict[str, Check] = {
            "deterministic": local.deterministic,
            "total": local.total,
            "starvation": local.starvation,
            "urgency": local.urgency,
            "unreachable": local.unreachable,
            "edges": local.dead_edges,
            "endless": lifetimes.endless_lives,
        }
        for name, check_one in checks.items():
            self._settle(product, name, check_one, f"{name}: {_ALWAYS[name]}")
        self._livelock(product)

    def _livelock(self, product: Product) -> None:
        found = list(lifetimes.livelock(product, self.circles))
        unknown = [circle for circle in self.circles if not circle.known]
        self.findings += found
        for circle in unknown:
            what = "whether unchanging values lead round in circles"
            why = self._lack() if circle.regions.found else ", too many guards to look at together"
            self.unproved.append(f"states {', '.join(circle.states)}: {what}{why}")
        if not found and not unknown:
            self.proved.append(f"livelock: {_ALWAYS['livelock']} (product)")

    def _settle(self, product: Product, kind: str, check_one: Check, proved: str) -> None:
        """Keep what a check found for certain, and as unproved what rests on an assumption."""
        strict, lenient = product.sure, product
        if kind in _POSSIBLE:
            strict, lenient = lenient, strict
        found = list(check_one(strict))
        open_ = list(check_one(lenient)) if lenient is not strict else []
        self.findings += found
        certain = {finding.place for finding in found}
        for finding in open_:
            if finding.place not in certain:
                what = f"may fail{self._lack()}: {finding.what}"
                self.unproved.append(f"{finding.place}: {what}")
        if not found and not open_:
            self.proved.append(f"{proved} (product)")

    def _lack(self) -> str:
        """Return why something stays open."""
        return ", Z3 is needed" if self.solver is None else ", Z3 cannot tell in time"

    def _declared(self, product: Product) -> None:
        worst = list(declared.worst_limits(product))
        self.notes += [text for _, text, known in worst if known]
        self.unproved += [
            f"{a.place}: {text} is not known" for a, text, known in worst if not known
        ]
        some = {asked for asked, _, _ in worst}
        for asked in self.spec.properties:
            if asked.kind in declared.PROOFS:
                under = f" under {'some' if asked in some else 'all'} limits"
                text = f"{asked.kind}: {asked.name}" + under * (asked.kind == "reachable")
                self._settle(product, asked.kind, partial(self._property, asked), text)

    def _property(self, asked: Property, product: Product) -> Iterator[Finding]:
        return declared.PROOFS[asked.kind](product, asked, self._most(product))

    def _most(self, product: Product) -> dict[int, int]:
        """Return the most ticks from each place to an end, counted once for each product."""
        if id(product) not in self.most:
            self.most[id(product)] = lifetimes.lifetimes(product)
        return self.most[id(product)]

    def _formulas(self, space: logic.Space) -> None:
        asked = list(logic.formulas(self.spec))
        if not asked:
            return
        if space.size() > logic.MOST_NODES:
            what = f"{space.size()} nodes are more than {logic.MOST_NODES}"
            self.unproved += [f"{item.place}: formula {item.name!r}: {what}" for item, _ in asked]
            return
        sure = logic.Space(space.product.sure) if space.product.sure is not space.product else space
        checkers = Checker(space.graph, space.atom), Checker(sure.graph, sure.atom)
        for item, formula in asked:
            open_ = self._open(space.product, formula)
            found = [] if open_ else list(logic.refuted(sure, item, formula, checkers[1]))
            self.findings += found
            if not found and not open_ and not _is_exact(space.product):
                open_ = self._unlisted(space, item, formula, checkers[0])
            if open_:
                self.unproved.append(f"{item.place}: formula {item.name!r}: {open_}")
            elif not found:
                self.proved.append(f"ctl: {item.name} (product)")

    def _open(self, product: Product, formula: Formula) -> str:
        """Return why nothing can be said of a formula, "" where something can."""
        if product.blurred and logic.counts(formula):
            return "single steps and epochs are not told apart in a product of this size"
        if not _is_exact(product) and not logic.speaks_of_all_paths(formula):
            return f"it asks for a path, and not every combination of guards is known{self._lack()}"
        return ""

    def _unlisted(
        self, space: logic.Space, item: Property, formula: Formula, checker: Checker
    ) -> str:
        """Return why a formula may fail that no step which is sure refutes, "" where it holds."""
        if not space.product.complete:
            return f"too many combinations of guards to look at each{self._lack()}"
        refuted = any(logic.refuted(space, item, formula, checker))
        return f"may fail{self._lack()}" if refuted else ""

    def _numbers(self, product: Product) -> None:
        spec = self.spec
        stages = {
            "counter: counters hold every bound": numeric.counters(product.machine),
            "missing values: every NaN and infinity has its rule": numeric.missing_values(spec),
            "limit: limits are stored as their dtype holds them": numeric.quantised(spec),
        }
        for name, found in stages.items():
            findings = list(found)
            self.findings += findings
            self.proved += [] if findings else [name]

    def _lemmas(self) -> None:
        """Prove for each float limit that a backend may compare in float32 or in double."""
        limits = [limit for limit in self.spec.limits if limit.dtype == "float32"]
        if not limits:
            return
        if self.solver is None:
            names = ", ".join(limit.name for limit in limits)
            what = "comparing in float32 and in double gives the same"
            self.unproved.append(f"limits {names}: {what}: needs z3")
            return
        if self.solver.widening_is_harmless():
            what = "every value compares with every limit alike in float32 and in double, NaN too"
            self.proved.append(f"limits: {what} (z3)")
        else:
            self.unproved.append("limits: z3 gave up on comparing in float32 and in double")
        for limit in limits:
            self._lemma(self.solver, limit)

    def _lemma(self, solver: smt.Solver, limit: Limit) -> None:
        stored, written = float(limit.default), numeric.inexact(limit)
        text = f"limit {limit.name}: stored as {stored!r}"
        if not solver.stored_agrees(stored):
            self.unproved.append(f"{text}: z3 gave up on its lemma")
            return
        self.proved.append(f"{text}, which every backend compares alike (z3)")
        if written is not None:
            value = solver.text_differs(stored, written)
            if value is not None:
                what = f"a double comparison with the text {written!r} is wrong at {value!r}"
                self.notes.append(f"{text}; {what}")

    def _means(self, product: Product) -> None:
        """Say of each state whose regions were not enumerated by what means they were found."""
        for name, segments in product.segments.items():
            regions = [segment.regions for segment in segments if not segment.blurred]
            if len(regions) < len(segments):
                first = segments[-1].first
                what = f"its guards count epochs; from {first} on, all epochs are taken together"
                self.unproved.append(f"state {name}: {what}")
            if any(each.how == "assumed" for each in regions):
                what = "guards that compute or have too many regions: overlap, gaps and dead edges"
                self.unproved.append(f"state {name}: {what} {self._need()}")
            elif any(each.how == "z3" for each in regions):
                self.proved.append(f"state {name}: regions of its guards (z3)")

    def _need(self) -> str:
        missing = "need z3 (pip install 'kasmina[verify]')"
        return missing if self.solver is None else "are more than z3 can tell in time"


def _is_exact(product: Product) -> bool:
    """Say whether no region is missing, and values are known of each."""
    return product.complete and product.sure is product


def _notes(product: Product) -> Iterator[str]:
    """Yield what holds and might still surprise."""
    if product.merged:
        yield "the product is too large to tell all epochs apart: stretches that read alike are one"
    yield from _unheard(product)
    yield from _ties(product)
    yield from _partly_dead(product)


def _unheard(product: Product) -> Iterator[str]:
    """Yield where an urgent event may do nothing: that is legal, unless `handles` is declared."""
    machine = product.machine
    alive = dict.fromkeys(s.state.name for s in product.reachable if not s.state.terminal)
    for event in filter(lambda event: event.urgent, machine.spec.events):
        deaf = dict.fromkeys(
            segment.state.name
            for segment, _, passing in product.situations
            if segment.state.name in alive and all(edge.event != event.name for edge in passing)
        )
        bare = [name for name in deaf if all(e.event != event.name for e in machine.edges[name])]
        held = [name for name in deaf if name not in bare]
        hint = f"to rule it out, declare a property with handles: {{event: {event.name}, in: ...}}"
        if bare:
            yield f"urgent {event.name} has no edge from {', '.join(bare)}; {hint}"
        if held:
            yield f"urgent {event.name} may be held back by its guard in {', '.join(held)}; {hint}"


def _ties(product: Product) -> Iterator[str]:
    """Yield the commands of one priority: given at once, the first in the file is taken."""
    told: set[tuple[str, str, str]] = set()
    machine = product.machine
    for segment, _, passing in product.situations:
        for place, one in enumerate(passing):
            for other in passing[place + 1 :]:
                key = (segment.state.name, one.event, other.event)
                apart = not machine.same_trigger(one, other) and one.priority == other.priority
                if apart and one.target != other.target and key not in told:
                    told.add(key)
                    text = f"{one.event} goes before {other.event} by its place in the file"
                    yield f"state {segment.state.name}: {text}"


def _partly_dead(product: Product) -> Iterator[str]:
    """Yield the edges that a group's transition gives to a state and that are never taken there."""
    used = {edge.index for edge in local.taken(product)}
    alive = {edge.place for edge in product.machine.spec.edges if edge.index in used}
    reached = {product.state(place).name for place in product.traces}
    for edge in product.machine.spec.edges:
        if edge.index not in used and edge.place in alive and edge.source in reached:
            yield f"{edge.place}: {local.describe(edge)} is never taken, unlike others of its line"


def _size(space: logic.Space) -> Size:
    product = space.product
    places = product.places
    steps = (sum(map(len, product.moves(places[place][0]))) for place in product.traces)
    return Size(len(product.traces), space.size(), sum(steps))

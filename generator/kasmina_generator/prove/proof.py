"""All checks on one machine, and the report of what they found, by which means, in which time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from kasmina_generator.finding import Finding, in_file_order
from kasmina_generator.model import Limit, Spec
from kasmina_generator.prove import declared, lifetimes, local, logic, numeric, smt
from kasmina_generator.prove.ctl import Checker
from kasmina_generator.prove.domain import domains
from kasmina_generator.prove.lifetimes import Bound
from kasmina_generator.prove.product import Product, build
from kasmina_generator.prove.regions import Finder

Result = TypeVar("Result")

# What fails although more was assumed possible than is, fails for certain.
_CERTAIN = frozenset({"unreachable", "impossible", "shadowed", "endless"})
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
        self.solver: smt.Solver | None = None
        with contextlib.suppress(smt.NoSolver):
            self.solver = smt.solver() if use_z3 else None

    def proof(self) -> Proof:
        product = self._timed("product", self._product)
        self._timed("local", lambda: self._local(product))
        most = self._timed("lifetimes", lambda: lifetimes.lifetimes(product))
        self._timed("properties", lambda: self._declared(product, most))
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
        )

    def _timed(self, stage: str, work: Callable[[], Result]) -> Result:
        start = time.process_time()
        result = work()
        self.seconds[stage] = time.process_time() - start
        return result

    def _product(self) -> Product:
        query = self.solver.regions if self.solver else None
        solve = self.solver.vectors if self.solver else None
        finder = Finder(domains(self.spec), solve, query)
        least = max((n for _, f in logic.formulas(self.spec) for n in logic.numbers(f)), default=-1)
        return build(self.spec, finder, least)

    def _local(self, product: Product) -> None:
        self.circles = lifetimes.circles(product)
        checks: dict[str, Callable[[Product], Iterator[Finding]]] = {
            "deterministic": local.deterministic,
            "total": local.total,
            "starvation": local.starvation,
            "urgency": local.urgency,
            "unreachable": local.unreachable,
            "edges": local.dead_edges,
            "endless": lifetimes.endless_lives,
            "livelock": lambda product: lifetimes.livelock(product, self.circles),
        }
        for name, check_one in checks.items():
            self._record(product, list(check_one(product)), f"{name}: {_ALWAYS[name]}")

    def _record(self, product: Product, found: list[Finding], proved: str) -> None:
        """Keep what was found, as unproved where it stands on assumed regions."""
        for finding in found:
            if finding.check in _CERTAIN or not _on_assumption(product, finding):
                self.findings.append(finding)
            else:
                self.unproved.append(f"{finding.place}: may fail, Z3 is needed: {finding.what}")
        if not found:
            self.proved.append(f"{proved} (product)")

    def _declared(self, product: Product, most: dict[int, int]) -> None:
        worst = dict(declared.worst_limits(product))
        self.notes += worst.values()
        for asked in self.spec.properties:
            if asked.kind in declared.PROOFS:
                found = list(declared.PROOFS[asked.kind](product, asked, most))
                under = f" under {'some' if asked in worst else 'all'} limits"
                text = f"{asked.kind}: {asked.name}"
                self._record(product, found, text + under * (asked.kind == "reachable"))

    def _formulas(self, space: logic.Space) -> None:
        asked = list(logic.formulas(self.spec))
        if not asked:
            return
        if space.size() > logic.MOST_NODES:
            what = f"{space.size()} nodes are more than {logic.MOST_NODES}"
            self.unproved += [f"{item.place}: formula {item.name!r}: {what}" for item, _ in asked]
            return
        checker = Checker(space.graph, space.atom)
        for item, formula in asked:
            if space.product.merged and (logic.steps_in(formula) or any(logic.numbers(formula))):
                what = "single steps and epochs are not told apart in a product of this size"
                self.unproved.append(f"{item.place}: formula {item.name!r}: {what}")
            else:
                found = list(logic.refuted(space, item, formula, checker))
                self._record(space.product, found, f"ctl: {item.name}")

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
            hows = {segment.regions.how for segment in segments}
            if "assumed" in hows:
                what = "guards that compute or have too many regions: overlap, gaps and dead edges"
                self.unproved.append(
                    f"state {name}: {what} need z3 (pip install 'kasmina[verify]')"
                )
            elif "z3" in hows:
                self.proved.append(f"state {name}: regions of its guards (z3)")
        for circle in self.circles:
            if circle.regions.how == "assumed":
                what = "whether unchanging values lead round in circles"
                self.unproved.append(f"states {', '.join(circle.states)}: {what}")


def _on_assumption(product: Product, finding: Finding) -> bool:
    """Say whether the path of a finding passes a state of which regions were assumed."""
    if not product.assumed:
        return False
    assumed = {
        name
        for name, segments in product.segments.items()
        if any(segment.regions.how == "assumed" for segment in segments)
    }
    passed = {name.partition("@")[0] for name in finding.witness[::2]}
    return not finding.witness or bool(passed & assumed)


def _notes(product: Product) -> Iterator[str]:
    """Yield what holds and might still surprise."""
    if product.merged:
        yield "the product is too large to tell all epochs apart: stretches that read alike are one"
    yield from _ties(product)
    yield from _partly_dead(product)


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

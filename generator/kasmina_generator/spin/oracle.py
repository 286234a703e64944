"""What SPIN says of each declared property, and how that compares with the prover."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from kasmina_generator.emit.linear import Claim, claims
from kasmina_generator.emit.promela import Stretches, stretches
from kasmina_generator.emit.render import promela
from kasmina_generator.model import Property, Spec
from kasmina_generator.prove import smt
from kasmina_generator.prove.domain import domains
from kasmina_generator.prove.regions import Finder
from kasmina_generator.spin.program import FIRST_DEPTH, Search, compiled
from kasmina_generator.spin.trail import Step, read_trail

MEMORY_MB = 4096
_TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class Answer:
    """SPIN's verdict on one property; `trail` is the run that shows it, where a run can."""

    declared: Property
    holds: bool
    search: Search
    trail: tuple[Step, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """All answers, and the properties that SPIN could not be asked, with the reasons."""

    entities: int
    answers: tuple[Answer, ...]
    unsaid: tuple[tuple[Property, str], ...]
    assumed: tuple[str, ...]  # states with regions that no values may give, because z3 is missing


def ask(
    spec: Spec,
    *,
    entities: int = 2,
    memory_mb: int = MEMORY_MB,
    first_depth: int = FIRST_DEPTH,
    only: Collection[str] | None = None,
    trails: bool = True,
    tell: Callable[[Answer], None] = lambda _: None,
) -> Report:
    """Search the Promela model of a spec for runs that break its properties.

    Args:
        spec: The machine; it need not be sound.
        entities: How many share the capacities.
        memory_mb: What one search may take.
        first_depth: Steps; it grows until no run is cut off.
        only: Names of the properties to ask; None for all.
        trails: Show runs that break a property, short ones as far as they are found quickly.
        tell: Called with each answer when it is there.

    Raises:
        SpinError: SPIN or gcc is missing, or a search was not completed.
    """
    found = stretches(spec, _finder(spec))
    said = claims(spec)
    asked = [claim for claim in said.claims if only is None or claim.declared.name in only]
    with tempfile.TemporaryDirectory(prefix="kasmina-spin-") as folder:
        oracle = _Oracle(spec, found, asked, Path(folder), entities, memory_mb, first_depth, trails)
        answers = oracle.answers(tell) if asked else []
    assumed = [name for name, each in found.items() if any(part.assumed for part in each)]
    return Report(entities, tuple(answers), tuple(said.unsaid), tuple(assumed))


def _finder(spec: Spec) -> Finder:
    with contextlib.suppress(smt.NoSolver):
        solver = smt.solver()
        return Finder(domains(spec), solver)
    return Finder(domains(spec))


@dataclass
class _Oracle:
    """One model, and the claims on it; those on every moment are searched together first."""

    spec: Spec
    found: Stretches
    claims: list[Claim]
    folder: Path
    entities: int
    memory_mb: int
    first_depth: int
    trails: bool

    def answers(self, tell: Callable[[Answer], None]) -> list[Answer]:
        model = promela(self.spec, self.found)
        together = [claim for claim in self.claims if claim.safety and not claim.sought]
        if together:
            conditions = " && ".join(f"({claim.always})" for claim in together)
            model += f"\nltl {_TOGETHER} {{ [] ({conditions}) }}\n"
        self._verifier = compiled(
            model,
            self.folder,
            entities=self.entities,
            memory_mb=self.memory_mb,
            optimise=self.entities > 2,
        )
        held = self._held(together)
        answers = []
        for claim in self.claims:
            answers.append(held.get(claim.name) or self._answer(claim))
            tell(answers[-1])
        return answers

    def _held(self, together: list[Claim]) -> dict[str, Answer]:
        """Return the answers to claims that hold all; none where some claim is broken."""
        if len(together) < 2:
            return {}
        start = time.perf_counter()
        search = self._verifier.search(_TOGETHER, safety=True, first_depth=self.first_depth)
        seconds = (time.perf_counter() - start) / len(together)
        if search.errors:
            return {}
        return {c.name: Answer(c.declared, True, search, (), seconds) for c in together}

    def _answer(self, claim: Claim) -> Answer:
        start = time.perf_counter()
        verifier = self._verifier
        search = verifier.search(claim.name, safety=claim.safety, first_depth=self.first_depth)
        holds = bool(search.errors) is claim.sought
        trail: tuple[Step, ...] = ()
        if self.trails and search.errors and not holds:
            verifier.shorten(claim.name, safety=claim.safety, below=search.depth)
            trail = read_trail(verifier.replay(claim.name), self.spec, self.found)
        return Answer(claim.declared, holds, search, trail, time.perf_counter() - start)

"""What `kasmina spec diff` reports: changes, each of a class, with proof and witnesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kasmina_generator.model import Place, Scalar

Class = Literal["source", "table", "stored", "behaviour"]

# From the mildest to the worst; `--fail-on` names one and means those after it as well.
CLASSES: tuple[Class, ...] = ("source", "table", "stored", "behaviour")


@dataclass(frozen=True, slots=True)
class Witness:
    """Values that show a difference, and what they show."""

    says: str
    values: dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class Found:
    """One place where a rule applies; `follows` replaces what the rule says follows."""

    subject: str
    what: str
    old: Place | None = None
    new: Place | None = None
    follows: str = ""
    proof: str = ""  # how it is known, "" where it can be read off
    witnesses: tuple[Witness, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two specs: what it is, of which class, and what follows from it."""

    rule: str
    kind: Class
    subject: str
    what: str
    follows: str
    old: Place | None
    new: Place | None
    proof: str
    witnesses: tuple[Witness, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that differs between two specs, the worst first.

    `readable` says what becomes of rows that were stored under the old spec: nothing where the
    digests are equal, the declared migration, or a refusal.
    """

    old: str  # name, version and digest of the old spec, as in `old_digest`
    new: str
    old_digest: str
    new_digest: str
    readable: Literal["as they are", "by migration", "not at all"]
    changes: tuple[Change, ...]

    def counts(self) -> dict[Class, int]:
        """Return how many changes there are of each class, the worst first."""
        kinds = [change.kind for change in self.changes]
        return {kind: kinds.count(kind) for kind in reversed(CLASSES)}

    def worst(self) -> Class | None:
        """Return the worst class that occurs, None where nothing differs."""
        return next((kind for kind, count in self.counts().items() if count), None)

    def reaches(self, kind: Class) -> bool:
        """Say whether a change of a class or a worse one is there."""
        worst = self.worst()
        return worst is not None and CLASSES.index(worst) >= CLASSES.index(kind)

"""What is wrong with a spec, where, and how to mend it; collected, so that one run shows all."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kasmina_generator.model import Place

MOST_FINDINGS = 1000  # a spec that is wrong everywhere need not say so more often


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: `file:line:col: what`, then the witness path and a hint on lines of their own.

    `check` names the structural check that found it, "" for what the reader refuses. `witness`
    is a path of states and events, as alternating names: state, event, state, ...
    """

    place: Place
    what: str
    hint: str = ""
    witness: tuple[str, ...] = ()
    check: str = ""

    def __str__(self) -> str:
        text = f"{self.place}: {self.what}"
        if self.witness:
            text += f"\n    witness: {_path(self.witness)}"
        if self.hint:
            text += f"\n    hint: {self.hint}"
        return text


def _path(witness: tuple[str, ...]) -> str:
    """Render state, event, state, ... as `A --event--> B`."""
    steps = zip(witness[1::2], witness[2::2], strict=True)
    return witness[0] + "".join(f" --{event}--> {state}" for event, state in steps)


class SpecErrors(Exception):
    """A spec that cannot be read; `findings` holds every fault, in the order of the file."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(findings, key=in_file_order))
        super().__init__("\n".join(map(str, self.findings)))


def in_file_order(finding: Finding) -> tuple[str, int, int]:
    """Return the key that sorts findings as a reader meets them."""
    return (finding.place.file, finding.place.line, finding.place.column)


class Log:
    """Collects findings while a spec is read; the same fault at the same place counts once."""

    def __init__(self) -> None:
        self._findings: dict[tuple[Place, str], Finding] = {}

    def __len__(self) -> int:
        return len(self._findings)

    def has(self, place: Place) -> bool:
        """Say whether a fault was recorded at a place."""
        return any(found == place for found, _ in self._findings)

    def add(
        self,
        place: Place,
        what: str,
        *,
        allowed: Collection[str] = (),
        given: str | None = None,
        hint: str = "",
    ) -> None:
        """Record a fault; `allowed` lists the legal names and `given` is guessed from them."""
        if len(self._findings) == MOST_FINDINGS:
            what, allowed, given, hint = (
                f"more than {MOST_FINDINGS} faults; the rest is left out",
                (),
                None,
                "",
            )
        if len(self._findings) <= MOST_FINDINGS:
            text = what + alternatives(allowed, given)
            self._findings.setdefault((place, text), Finding(place, text, hint))

    def raise_if_any(self) -> None:
        """Raise `SpecErrors` where a fault was recorded."""
        if self._findings:
            raise SpecErrors(self._findings.values())


def counted(number: int, noun: str) -> str:
    """Return `1 epoch`, `2 epochs`, `2 entities`."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


def alternatives(allowed: Collection[str], given: str | None) -> str:
    """Return `; allowed: a, b; did you mean 'a'?` as far as there is something to say."""
    text = f"; allowed: {', '.join(allowed)}" if allowed else ""
    near = difflib.get_close_matches(given, allowed, n=1) if given else []
    return text + (f"; did you mean {near[0]!r}?" if near else "")

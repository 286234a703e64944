"""Everything that is known of a spec before it is built: its structure, then its proof."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kasmina_generator.checks import check_structure
from kasmina_generator.finding import Finding, SpecErrors, in_file_order
from kasmina_generator.model import Spec
from kasmina_generator.prove import Proof, prove
from kasmina_generator.reader import read_spec

# What the structure shows by a shorter path need not be told again by the product.
_SAME = {
    "duplicate": "shadowed",
    "no_timeout": "total",
    "trap": "endless",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings on a spec, and what was proved of it, by what, and what was not."""

    findings: tuple[Finding, ...]
    proof: Proof


def verify(spec: Spec) -> Verdict:
    """Return what is wrong with a spec, and what is proved of it."""
    structural = check_structure(spec)
    proof = prove(spec)
    told = {_subject(finding) for finding in structural}
    rest = [finding for finding in proof.findings if _subject(finding) not in told]
    return Verdict(tuple(sorted([*structural, *rest], key=in_file_order)), proof)


def _subject(finding: Finding) -> tuple[object, str]:
    return (finding.place, _SAME.get(finding.check, finding.check))


def check_spec(spec: Spec) -> list[Finding]:
    """Return everything that is wrong with a machine, in the order of the file; see `verify`."""
    return list(verify(spec).findings)


def proved_spec(path: Path) -> tuple[Spec, Proof]:
    """Return the spec in a file, without a fault, and its proof.

    Raises:
        SpecErrors: Everything that is wrong with it.
    """
    spec = read_spec(path)
    verdict = verify(spec)
    if verdict.findings:
        raise SpecErrors(verdict.findings)
    return spec, verdict.proof

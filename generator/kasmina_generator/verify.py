"""Everything that is known of a spec before it is built: its structure, then its proof."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kasmina_generator.checks import check_structure
from kasmina_generator.finding import Finding, SpecErrors, in_file_order
from kasmina_generator.model import Spec
from kasmina_generator.prove import Proof, prove
from kasmina_generator.prove.paths import realised
from kasmina_generator.reader import read_spec

# What the structure finds as well is told in its words, with the path of the product.
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
    proof = prove(spec)
    structural = [_shown(finding, proof) for finding in check_structure(spec)]
    told = {_subject(finding) for finding in structural}
    rest = [finding for finding in proof.findings if _subject(finding) not in told]
    return Verdict(tuple(sorted([*structural, *rest], key=in_file_order)), proof)


def _shown(finding: Finding, proof: Proof) -> Finding:
    """Return a structural finding with epochs and values: the product's way to the same end."""
    same = [f.witness for f in proof.findings if _subject(f) == _subject(finding)]
    ends = [path for path in same if _end(path) == _end(finding.witness)]
    walked = realised(proof.product.sure, finding.witness)
    path = next(filter(None, [*ends, walked, *same, finding.witness]), ())
    return replace(finding, witness=path)


def _end(witness: tuple[str, ...]) -> str:
    return witness[-1].partition("@")[0] if witness else ""


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

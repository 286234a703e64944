"""SPIN's answers in lines that people read, beside what the prover says."""

from __future__ import annotations

from collections.abc import Iterator

from kasmina_generator.finding import counted
from kasmina_generator.model import Place
from kasmina_generator.prove.proof import Proof
from kasmina_generator.spin.oracle import Answer, Report
from kasmina_generator.spin.trail import lines


def agrees(answer: Answer, proof: Proof) -> bool | None:
    """Say whether the prover gives the same verdict; None where it left the property open."""
    place = answer.declared.place
    if _at(proof.unproved, place):
        return None
    return answer.holds is not any(finding.place == place for finding in proof.findings)


def _at(texts: tuple[str, ...], place: Place) -> bool:
    return any(text.startswith(f"{place}:") for text in texts)


def answered(answer: Answer, proof: Proof) -> Iterator[str]:
    """Yield the verdict on one property, how far was searched, and the run that breaks it."""
    verdict = "holds" if answer.holds else "broken"
    search = answer.search
    effort = f"{counted(search.states, 'state')}, {answer.seconds:.1f} s"
    yield f"  {verdict:<7} {answer.declared.name}  {answer.declared.place}  ({effort})"
    if len(search.depths) > 1:
        grown = ", ".join(f"{depth:,}" for depth in search.depths[1:])
        yield f"          the search was too shallow at {search.depths[0]:,} steps; deepened: {grown}"
    yield from (f"          {line}" for line in _shown(answer))
    if agrees(answer, proof) is False:
        yield (
            "          the prover says otherwise: to it a capacity may refuse room at any time and "
            "commands may come for ever without a tick; here both are as entities make them"
        )


def _shown(answer: Answer) -> Iterator[str]:
    if answer.trail:
        yield "a run that breaks it; * marks the entity that the property speaks of:"
        yield from (f"  {line}" for line in lines(answer.trail))
    elif not answer.holds:
        yield "no run comes there"


def ended(report: Report) -> Iterator[str]:
    """Yield what SPIN was not asked, on what it relied, and the count."""
    for item, why in report.unsaid:
        yield f"  not asked {item.name}  {item.place}: {why}"
    for name in report.assumed:
        yield f"  {name}: its guards were not all settled: more was assumed possible than is, or less"
    if not report.answers:
        yield "  SPIN: nothing was searched, for the spec declares no property that SPIN can be asked"
        return
    broken = sum(not answer.holds for answer in report.answers)
    yield f"  SPIN: {len(report.answers) - broken} hold, {broken} broken, {len(report.unsaid)} not asked"

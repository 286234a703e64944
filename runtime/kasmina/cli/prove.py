"""`kasmina spec prove`: the proof of a spec in full, and SPIN as a second opinion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

import kasmina_spec
from kasmina.cli.saying import say
from kasmina.cli.telling import existing, told
from kasmina.errors import KasminaError
from kasmina_generator.finding import counted
from kasmina_generator.model import Spec
from kasmina_generator.prove.proof import Proof
from kasmina_generator.prove.report import summary
from kasmina_generator.reader import read_spec
from kasmina_generator.spin import SpinError, ask
from kasmina_generator.spin.oracle import MEMORY_MB, Answer
from kasmina_generator.spin.report import agrees, answered, ended
from kasmina_generator.verify import verify


def prove(
    file: Path | None = None,
    /,
    *,
    spin: Annotated[bool, Parameter(negative=())] = False,
    entities: Annotated[int, Parameter(validator=Number(gte=1, lte=9))] = 2,
    memory: Annotated[int, Parameter(validator=Number(gte=64))] = MEMORY_MB,
) -> int:
    """Prove a spec and tell every statement; an unsound one is told with what does not hold.

    Args:
        file: the spec; without one, the lifecycle that Kasmina uses.
        spin: search a model of several entities by SPIN as well, and compare the verdicts.
        entities: with --spin, how many share the capacities; 3 take hours where 2 take seconds.
        memory: with --spin, what one search may take, in MB.

    Returns:
        0, or 1 where something does not hold, or SPIN and the prover differ.
    """
    with told():
        spec = read_spec(existing(file) if file else kasmina_spec.LIFECYCLE)
    verdict = verify(spec)
    say(f"{spec.file}: {spec.name} version {spec.version}")
    for finding in verdict.findings:
        say(f"{finding}")
    for line in summary(verdict.proof, everything=True):
        say(line)
    fine = _by_spin(spec, verdict.proof, entities, memory) if spin else True
    return int(bool(verdict.findings) or not fine)


def _by_spin(spec: Spec, proof: Proof, entities: int, memory: int) -> bool:
    """Print what SPIN says; return whether everything holds and the prover agrees."""
    say(f"  by SPIN, {counted(entities, 'entity')}:")

    def tell(answer: Answer) -> None:
        for line in answered(answer, proof):
            say(line)

    try:
        report = ask(spec, entities=entities, memory_mb=memory, tell=tell)
    except SpinError as error:
        raise KasminaError(str(error)) from error
    for line in ended(report):
        say(line)
    return all(answer.holds and agrees(answer, proof) is not False for answer in report.answers)

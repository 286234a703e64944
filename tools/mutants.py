"""Plant faults in machines and print which check finds each: `python -m tools.mutants [SPEC ...]`.

With `--witness` each finding is printed with its line and the path that shows it. Exit code 1 where
a mutant is missed.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import kasmina_spec
from kasmina_generator import read_spec
from tests.generator.prove.mutation import OPERATORS, Judgement, judge, mutants
from tests.helpers import ROOT

MACHINES = ROOT / "tests" / "generator" / "machines"
FILES = (
    kasmina_spec.LIFECYCLE,
    kasmina_spec.LIFECYCLE_V1,
    MACHINES / "traffic_light.yaml",
    MACHINES / "orders.yaml",
    MACHINES / "mission.yaml",
)


def main(files: list[Path], *, witness: bool = False) -> int:
    """Print one table for each machine, and what survived."""
    missed = 0
    for file in files or FILES:
        spec = read_spec(file)
        start = time.process_time()
        judged = [judge(spec, mutant) for mutant in mutants(spec)]
        seconds = time.process_time() - start
        say(f"{file.name}: {len(judged)} mutants in {seconds:.1f} s")
        table(judged)
        survivors(judged)
        if witness:
            findings(judged)
        missed += sum(each.missed for each in judged)
    say(f"missed: {missed}")
    return int(missed > 0)


def tally(judged: list[Judgement]) -> tuple[int, int, int, int]:
    """Return how many there are, were caught, are equal by proof, were missed."""
    caught = sum(each.caught is not None for each in judged)
    equal, missed = sum(e.equivalent for e in judged), sum(e.missed for e in judged)
    return len(judged), caught, equal, missed


def findings(judged: list[Judgement]) -> None:
    """Print each mutant that was caught, and what was said of it."""
    for each in judged:
        if each.caught is not None:
            say(f"  {each.mutant.operator}: {each.mutant.what} ({each.mutant.place})")
            say("\n".join(f"    {line}" for line in str(each.caught).splitlines()))


def table(judged: list[Judgement]) -> None:
    """Print for each operator how many mutants were caught, by which checks, and how many not."""
    say(f"  {'operator':26}{'mutants':>8}{'caught':>8}{'equal':>8}{'missed':>8}  by")
    for operator in OPERATORS:
        own = [each for each in judged if each.mutant.operator == operator]
        by = Counter(each.caught.check for each in own if each.caught)
        equal, missed = sum(e.equivalent for e in own), sum(e.missed for e in own)
        names = ", ".join(f"{name} {count}" for name, count in sorted(by.items()))
        counts = f"{len(own):8}{by.total():8}{equal:8}{missed:8}"
        say(f"  {operator:26}{counts}  {names}")


def survivors(judged: list[Judgement]) -> None:
    """Print the mutants that no check found, and why."""
    for each in judged:
        if each.caught is None:
            why = "takes the same steps, proved" if each.equivalent else "MISSED"
            mutant = each.mutant
            say(f"  {why}: {mutant.operator}: {mutant.what} ({mutant.place})")


def say(text: str) -> None:
    """Print a line."""
    print(text)  # noqa: T201  a script's output


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--witness"]
    sys.exit(main([Path(argument) for argument in given], witness="--witness" in sys.argv))

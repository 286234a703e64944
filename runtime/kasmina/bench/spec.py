"""How long it takes to prove a spec: the one that Kasmina ships, and a large one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import kasmina_spec
from kasmina.bench import Row, benchmark, require
from kasmina_generator import read_spec
from kasmina_generator.prove.ctl import Checker, Graph
from kasmina_generator.prove.formula import In, parse
from kasmina_generator.verify import Verdict, verify

REPEATS = 5
LARGE_STATES = 60
LARGE_EDGES = 300
CHAIN = 164_000


@benchmark("spec")
def run() -> list[Row]:
    """Checking and proving specs, in process time on one core."""
    first = _process_seconds(lambda: verify(read_spec(kasmina_spec.LIFECYCLE)))
    verdict = verify(read_spec(kasmina_spec.LIFECYCLE))
    require(not verdict.findings, "the default spec is sound")
    require(not verdict.proof.unproved, "z3 is installed and everything is proved")
    return [
        Row("check of the default spec, z3 included, first in the process", first, "s", 1.0),
        Row("its product, checks and CTL alone", _product_ms(), "ms", 50.0),
        Row(f"check of {LARGE_STATES} states, {LARGE_EDGES} edges", _large(), "s", 10.0),
        Row(f"four formulas on {CHAIN} nodes", _formulas(), "s", 4.0),
    ]


def _process_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _product_ms() -> float:
    """Return the least of some runs: anything beyond it is other work on the machine."""
    spec = read_spec(kasmina_spec.LIFECYCLE)
    return min(_without_z3(verify(spec)) for _ in range(REPEATS))


def _without_z3(verdict: Verdict) -> float:
    stages = verdict.proof.seconds
    return 1e3 * sum(seconds for stage, seconds in stages.items() if stage != "z3")


def _large() -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.yaml"
        path.write_text(large(LARGE_STATES, LARGE_EDGES), encoding="utf-8")
        verdicts: list[Verdict] = []
        seconds = _process_seconds(lambda: verdicts.append(verify(read_spec(path))))
        found = verdicts[0].findings
        require(not found, f"the large machine is sound: {found[:1]}")
        return seconds


def large(states: int, edges: int) -> str:
    """Return a machine of `states` states in a row, each with edges on, by time-out and to the end.

    Each further edge compares one of eight fields with a limit, NaN being unknown.
    """
    most = states - 1
    lines = ["schema: kasmina/lifecycle@1", "name: large", "version: 1", "meaning: Many states."]
    lines += ["initial: S0", "states:"]
    lines += [
        f"  S{i}: {{code: {i}, max_epochs: {5 + i % 20}, meaning: One.}}" for i in range(most)
    ]
    lines += [f"  END: {{code: {most}, terminal: true, meaning: The end.}}", "events:"]
    lines += ["  stop: {kind: command, urgent: true, priority: 0, meaning: Stop.}"]
    lines += ["  late: {kind: automatic, priority: 1, meaning: Too late.}"]
    lines += ["  go: {kind: automatic, meaning: Go on.}", "context:"]
    lines += [f"  x{k}: {_FIELD}" for k in range(8)]
    lines += ["limits:", *(f"  l{k}: {_LIMIT}" for k in range(8)), "transitions:"]
    lines += ["  - {from: non_terminal, on: stop, to: END}"]
    lines += ["  - {from: non_terminal, on: late, to: END, guard: timed_out}"]
    for number in range(edges - 2 * most):
        source, rank = number % most, number // most
        target = f"S{source + 1 + rank}" if source + 1 + rank < most else "END"
        guard = f"x{rank % 8} >= l{rank % 8}"
        lines.append(
            f"  - {{from: S{source}, on: go, to: {target}, guard: {guard}, priority: {10 + rank}}}"
        )
    return "\n".join(lines) + "\n"


_FIELD = (
    "{dtype: float32, unit: m, range: [0.0, 100.0], default: 0.0, nan: unknown, "
    "infinity: unknown, meaning: A length.}"
)
_LIMIT = "{dtype: float32, default: 0.5, range: [0.0, 100.0], meaning: A threshold.}"


def _formulas() -> float:
    """Return the time of four formulas on a chain, which is the longest path there is."""
    chain = [[CHAIN + min(node + 1, CHAIN - 1)] for node in range(CHAIN)]
    graph = Graph(CHAIN, [*chain, *([node] for node in range(CHAIN))])
    last = graph.marks(lambda node: node == CHAIN - 1)
    checker = Checker(graph, lambda formula: last if formula == In("p") else graph.complement(last))
    texts = ("AF p", "AG(q -> EF p)", "A[q U p]", "EG q")
    formulas = [parse(text, ("p", "q"), ()) for text in texts]
    seconds = _process_seconds(lambda: [checker.marks(formula) for formula in formulas])
    held = [bool(checker.marks(formula)[0]) for formula in formulas]
    require(held == [True, True, True, False], f"the formulas hold as they should: {held}")
    return seconds

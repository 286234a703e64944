"""Machines whose predicates need each way of packing that the generator knows."""

from __future__ import annotations


def machine(
    name: str,
    states: dict[str, range],
    commands: dict[str, list[str]],
    fields: int,
) -> str:
    """Return a spec whose states go round; each has an edge for each of its commands and tests."""
    order = list(states)
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    every = list(dict.fromkeys(command for kept in commands.values() for command in kept))
    lines = ["schema: kasmina/lifecycle@1", f"name: {name}", "version: 1", "meaning: Goes round."]
    lines += [f"initial: {order[0]}", "states:"]
    lines += [
        f"  {state}: {{code: {code}, max_epochs: unbounded, meaning: Goes round.}}"
        for code, state in enumerate(order)
    ]
    lines += ["events:"]
    lines += [f"  {command}: {{kind: command, meaning: Go.}}" for command in every]
    most = max(map(len, states.values()))
    lines += [f"  t{i}: {{kind: automatic, meaning: Go.}}" for i in range(most)]
    if fields:
        rule = "{dtype: int32, unit: pieces, range: [0, 9], default: 0, meaning: Counts.}"
        lines += ["context:", *(f"  f{i}: {rule}" for i in range(fields))]
        lines += ["limits:", "  l0: {dtype: int32, default: 4, range: [0, 9], meaning: Enough.}"]
    lines += ["transitions:"]
    for state, tests in states.items():
        ways = [(command, "") for command in commands.get(state, [])]
        ways += [(f"t{place}", f"f{number} > l0") for place, number in enumerate(tests)]
        lines += [
            f"  - {{from: {state}, on: {event}, to: {following[state]}"
            + (f", guard: {text}}}" if text else "}")
            for event, text in ways
        ]
    return "\n".join(lines) + "\n"


SHAPES = {
    # 13 predicates in one state: no table.
    "wide": machine("wide", {"A": range(13), "B": range(1)}, {"B": ["go"]}, 13),
    # 8 commands in one state and 8 tests in the other: they have to share slots.
    "crowded": machine(
        "crowded", {"A": range(0), "B": range(8)}, {"A": [f"c{i}" for i in range(8)]}, 8
    ),
    # 6 states of 8 tests each: 48 bits before they are folded.
    "deep": machine("deep", {f"S{i}": range(8 * i, 8 * i + 8) for i in range(6)}, {}, 48),
    # Nothing is measured and nothing is counted.
    "bare": machine(
        "bare", {"A": range(0), "B": range(0)}, {"A": ["go", "jump"], "B": ["back"]}, 0
    ),
}

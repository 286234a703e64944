"""One colour for each state, the same in the live view and in the report.

The built-in lifecycle's states have colours that tell their story: grey waits, blue learns aside,
amber blends in, green stays, red and violet leave. Any other state takes the next spare colour.
"""

from __future__ import annotations

from collections.abc import Iterable

# state: (on a light page, on a dark page)
KNOWN = {
    "DORMANT": ("#c9ced6", "#3d4450"),
    "GERMINATED": ("#94a3b8", "#64748b"),
    "TRAINING": ("#4f8fd9", "#5b9ae6"),
    "GRAFTING": ("#e8a33d", "#f0b252"),
    "STABILIZATION": ("#d9c84a", "#dccb55"),
    "EVALUATING": ("#a6c94f", "#aacb5a"),
    "FINE_TUNING": ("#5fb87a", "#66bf82"),
    "FOSSILIZED": ("#1f8a5b", "#2fa774"),
    "CULLED": ("#d0644f", "#dd7560"),
    "CANCELLED": ("#b98aa0", "#c497ac"),
    "ROLLED_BACK": ("#8b6fc0", "#9c82d0"),
}
SPARE = (
    ("#3aa6a0", "#49b5af"),
    ("#b5651d", "#c87a35"),
    ("#7a8b2f", "#94a546"),
    ("#c2568c", "#d26b9f"),
    ("#5a6acf", "#7080e0"),
    ("#8a5a44", "#a37159"),
)


def state_colours(states: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return a (light, dark) pair for each state, in the order given."""
    names = list(dict.fromkeys(states))
    others = [name for name in names if name not in KNOWN]
    spare = {name: SPARE[index % len(SPARE)] for index, name in enumerate(others)}
    return {name: KNOWN.get(name) or spare[name] for name in names}

"""The tables of a report, from a story: rows of what is shown in each column."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from kasmina.observe.panels import percent
from kasmina.observe.record import Record
from kasmina.observe.story import Story
from kasmina.observe.words import counted, giga, seed_name, some, value_text, words

MOST_ROWS = 400

View = dict[str, Any]


def comparisons(story: Story, walls: dict[str, float]) -> list[View]:
    """The grown network and the static ones; nothing where none was trained."""
    if not story.comparisons:
        return []
    others = [
        _network(str(r["name"]), r, float(r.clock.get("wall_s", math.nan)), walls)
        for r in story.comparisons
    ]
    if story.finish is None:
        return others
    return [{**_network("grown", story.finish, math.nan, walls), "ours": True}, *others]


def _network(name: str, record: Record, wall: float, walls: dict[str, float]) -> View:
    metric = float(record["test_metric"])
    wall = walls.get(name, wall)
    return {
        "name": name,
        "parameters": f"{record['parameters']:,}",
        "metric": percent(metric),
        "share": round(100 * min(max(metric, 0.0), 1.0), 2) if math.isfinite(metric) else None,
        "flops": giga(float(record["train_flops"])),
        "wall": f"{wall:,.1f} s" if math.isfinite(wall) else "-",
        "ours": False,
    }


def architecture(story: Story) -> list[View]:
    """What is grafted at the end."""
    parts = [] if story.finish is None else story.finish["architecture"]
    return [
        {
            "seed": seed_name(part),
            "blueprint": part["blueprint"],
            "parameters": f"{part['parameters']:,}",
            "state": words(part["state"]),
        }
        for part in parts
    ]


def decisions(story: Story) -> list[View]:
    """One row for each decision that did something; idle ones in a row share one."""
    rows: list[View] = []
    for idle, group in groupby(story.decisions, key=lambda record: not record["action"]):
        records = list(group)
        rows.extend([_idle(records)] if idle else map(_decided, records))
    return rows


def _idle(records: Sequence[Record]) -> View:
    first, last = records[0], records[-1]
    epochs = f"{first.epoch}" if len(records) == 1 else f"{first.epoch} to {last.epoch}"
    reasons = list(dict.fromkeys(str(record["reason"]) for record in records))
    between = f" … {reasons[-1]}" if len(reasons) > 1 else ""
    return {"epochs": epochs, "action": "wait", "reason": f"{reasons[0]}{between}", "quiet": True}


def _decided(record: Record) -> View:
    def key(action: View) -> tuple[str, str]:
        return str(action["event"]), str(action.get("blueprint") or "")

    parts = []
    for (event, blueprint), group in groupby(sorted(record["action"], key=key), key=key):
        kind = f" {blueprint}" if blueprint else ""
        parts.append(f"{words(event)}{kind}: {some([seed_name(action) for action in group])}")
    return {
        "epochs": f"{record.epoch}",
        "action": "; ".join(parts),
        "reason": record["reason"],
        "quiet": False,
    }


def evidence(story: Story) -> list[View]:
    """What was measured for each graft, drawn on one scale."""
    bounds = [float(end) for record in story.evidence for end in record["interval"] or ()]
    values = [float(record["value"]) for record in story.evidence]
    finite = [value for value in (*bounds, *values, 0.0) if math.isfinite(value)]
    low, high = min(finite), max(finite)
    return [_graft(story, record, low, high) for record in story.evidence[:MOST_ROWS]]


def strategies(story: Story) -> str:
    """Which strategies were chosen for the grafts, and what that may have cost; "" for none."""
    chosen = Counter(r["strategy"] for r in story.strategies if r.kind == "strategy")
    learned = [r for r in story.strategies if r.kind == "learned"]
    if not chosen:
        return ""
    told = f"The strategies of {counted(chosen.total(), 'graft')} were chosen by Delayed-UCB1: "
    told += ", ".join(f"{name} {number}" for name, number in chosen.most_common()) + "."
    if learned and "regret" in learned[-1].fields:
        told += (
            f" Rewards of {len(learned)} are known; at their means the choices have cost at most "
            f"{float(learned[-1]['regret']):.3g} of them (expected regret)."
        )
    return told


def _graft(story: Story, record: Record, low: float, high: float) -> View:
    value = float(record["value"])
    ends = [float(end) for end in record["interval"] or ()]
    return {
        "seed": str(record.address),
        "epoch": record.epoch,
        "measure": words(str(record["measure"])),
        "value": f"{value:+.4f}",
        "interval": " to ".join(f"{end:+.4f}" for end in ends) or "-",
        "rent": f"{float(record.fields.get('rent', 0.0)):.4f}",
        "verdict": "good" if value > 0 else "bad",
        "drawn": _interval([value, *ends], low, high) if high > low else None,
        "outcome": _outcome(story, record),
    }


def _interval(values: list[float], low: float, high: float) -> View | None:
    """Places of a value, its interval and zero, in per cent."""
    if not all(math.isfinite(value) for value in values):
        return None
    places = [100 * (value - low) / (high - low) for value in values]
    return {
        "zero": round(100 * -low / (high - low), 2),
        "value": round(places[0], 2),
        "low": round(min(places), 2),
        "width": round(max(places) - min(places), 2),
    }


def _outcome(story: Story, record: Record) -> str:
    """The last move of the seed at the time, and where it was in the end."""
    assert record.address is not None  # the log's check has seen to it for this kind
    moves = [each for each in story.transitions if each.address == record.address]
    before = [each for each in moves if each.seq < record.seq]
    last = [words(before[-1]["event"])] if before else []
    end = [words(moves[-1]["to"])] if moves else []
    return ", ".join([*last, *end])


def transition(record: Record) -> View:
    """One move of one seed."""
    return {
        "epoch": record.epoch,
        "step": f"{record.step:,}",
        "seed": str(record.address),
        "before": words(record["from"]),
        "after": words(record["to"]),
        "event": words(record["event"]),
        "reason": record["reason"],
    }


def settings(story: Story) -> list[tuple[str, str]]:
    """What the run was told, and the limits in force."""
    start = story.start
    if start is None:
        return []
    config = dict(start["config"])
    limits = config.pop("limits", None) or {}
    rows = [("task", start["task"]), ("seed", start["seed"]), ("budget", start["budget"])]
    rows += [*config.items(), *((f"limit {name}", value) for name, value in limits.items())]
    rows += [(f"limit {r['name']} from epoch {r.epoch}", r["value"]) for r in story.limits]
    rows += [("lifecycle", f"{start['spec']['name']} {start['spec']['digest']}")]
    return [(words(str(name)), value_text(value)) for name, value in rows]

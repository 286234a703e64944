"""The report of a run: one self-contained HTML file, made from the event log alone.

The log is the source of every figure. `result.json` adds the wall time of each network, which the
log's canonical part does not have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from kasmina.observe.colours import state_colours
from kasmina.observe.drawing import across
from kasmina.observe.folder import LOG, REPORT, RESULT, write_atomically
from kasmina.observe.log import read_log
from kasmina.observe.panels import lanes, metric_name, panels, percent, work_ticks
from kasmina.observe.record import Record, SeedKey, site_name
from kasmina.observe.story import Story, tell

MOST_ROWS = 400
GLYPHS = {"grafted": "▲", "kept": "●", "withdrawn": "▽", "rewound": "↺"}

View = dict[str, Any]


def write_report(folder: Path | str) -> Path:
    """Write `report.html` into a run directory, from its event log.

    A log that ends in a torn line, or before its run did, gives a report that says so.

    Args:
        folder: the run directory.

    Returns:
        The file.

    Raises:
        LogError: the log cannot be read.
        FolderError: the report cannot be written; an earlier one is kept.
    """
    folder = Path(folder)
    path = folder / REPORT
    page = render(tell(read_log(folder / LOG, ignore_torn=True)), _walls(folder / RESULT))
    write_atomically(path, page.encode())
    return path


def render(story: Story, walls: dict[str, float] | None = None) -> str:
    """Return the page.

    Args:
        story: the run.
        walls: seconds that each network took, by its name; the grown one is "grown".
    """
    walls = {"grown": story.last_time - story.first_time, **(walls or {})}
    rows, hidden = lanes(story)
    decisions = _decisions(story)
    colours = state_colours(story.states())
    return _template().render(
        title=_title(story),
        status=_status(story),
        finished=_status(story) == "finished",
        lead=_lead(story),
        notes=_notes(story),
        tiles=_tiles(story, walls),
        glyphs=[
            (what, GLYPHS[what]) for what in GLYPHS if any(m.what == what for m in story.marks)
        ],
        marks=_marks(story),
        panels=panels(story),
        lanes=rows,
        hidden=hidden,
        legend=[{"name": n, "light": light, "dark": dark} for n, (light, dark) in colours.items()],
        index={name: number for number, name in enumerate(colours)},
        initial=story.initial,
        work_ticks=work_ticks(story),
        work_unit=_work_unit(story),
        metric=metric_name(story),
        comparisons=_comparisons(story, walls),
        comparison_note="The same data, batches and steps, each trained from its own start; "
        "the FLOPs of the grown network include all that growing took.",
        architecture=_architecture(story),
        decisions=decisions[:MOST_ROWS],
        decisions_hidden=max(0, len(decisions) - MOST_ROWS),
        evidence=_evidence(story),
        transitions=[_transition(record) for record in story.transitions[:MOST_ROWS]],
        transitions_total=len(story.transitions),
        settings=_settings(story),
        footer=_footer(story),
        readouts=_readouts(story),
        css=Markup(_text("report.css")),
        js=Markup(_text("report.js")),
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("kasmina.observe", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template() -> Template:
    return _environment().get_template("report.html.jinja")


def _text(name: str) -> str:
    """A file of the page as it is: it is ours and holds nothing of a run."""
    return (Path(__file__).parent / "page" / name).read_text(encoding="utf-8")


def _walls(path: Path) -> dict[str, float]:
    """Wall seconds of each network from a run's result, as far as there is one."""
    try:
        result = json.loads(path.read_bytes())
        networks = [{"name": "grown", **result}, *result["comparisons"]]
        return {str(each["name"]): float(each["wall_s"]) for each in networks}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _title(story: Story) -> str:
    start = story.start
    return "A run" if start is None else f"{start['task']}, seed {start['seed']}"


def _status(story: Story) -> str:
    return "cut short" if story.finish is None else str(story.finish["status"])


def _lead(story: Story) -> str:
    start = story.start
    if start is None:
        return "The log does not begin with the start of a run."
    done = story.epochs[-1][1].epoch if story.epochs else 0
    seeds = sum(site["seeds"] for site in start["sites"])
    places = ", ".join(
        f"{site_name(site['path'])} ({site['placement']})" for site in start["sites"]
    )
    return (
        f"{_count(done, 'epoch')} of {start['epochs']}, {_count(story.end, 'training step')}; "
        f"{_count(seeds, 'seed')} at {places}."
    )


def _notes(story: Story) -> list[str]:
    """What a reader must know before believing the figures."""
    notes = []
    if story.finish is None:
        notes.append(
            "The log ends before the run did: it was killed or failed, or is still going on. The "
            "figures are those of the last epoch in the log."
        )
    elif story.finish["status"] != "finished":
        notes.append(
            f"The run was {story.finish['status']} before its planned end; the figures are those "
            "of the network as it stood."
        )
    lost = [
        record.epoch
        for _, record in story.epochs
        if not math.isfinite(float(record["train_loss"]) + float(record["validation_loss"]))
    ]
    if lost:
        notes.append(
            f"The loss was not finite in {_count(len(lost), 'epoch')}, first in epoch {lost[0]}; "
            "the curves have gaps there."
        )
    for record in story.rewinds:
        steps = record["from_step"] - record["to_step"]
        notes.append(
            f"Rewound in epoch {record.epoch}: {_count(steps, 'step')} thrown away. The plots show "
            "the steps that were spent, so these count."
        )
    return notes


def _tiles(story: Story, walls: dict[str, float]) -> list[View]:
    return [
        _tile_metric(story),
        _tile_parameters(story),
        _tile_cost(story, walls),
        _tile_seeds(story),
    ]


def _tile_metric(story: Story) -> View:
    validation = story.curve("", "validation_metric").last
    name = metric_name(story)
    if story.finish is None:
        return _tile(f"validation {name}", percent(validation), "no test figure: the run was cut")
    test = float(story.finish["test_metric"])
    figure = percent(test) if math.isfinite(test) else "not measured"
    return _tile(f"test {name}", figure, f"validation {percent(validation)}")


def _tile_parameters(story: Story) -> View:
    counts = [value for _, value in story.parameters]
    if not counts:
        return _tile("parameters", "-", "")
    first, last = counts[0], counts[-1] if story.finish is None else story.finish["parameters"]
    budget = None if story.start is None else story.start["budget"]
    figure = f"{first:,}" if first == last else f"{first:,} → {last:,}"
    beside = f"{last / max(first, 1):.1f} times the start" if first != last else "did not grow"
    return _tile("parameters", figure, beside if budget is None else f"{beside}, budget {budget:,}")


def _tile_cost(story: Story, walls: dict[str, float]) -> View:
    spent = story.epochs[-1][1]["flops"] if story.epochs else 0
    flops = float(spent if story.finish is None else story.finish["train_flops"])
    wall = walls["grown"]
    return _tile(
        "training",
        f"{_giga(flops)} GFLOP",
        f"growing included, {wall:,.1f} s" if math.isfinite(wall) else "growing included",
    )


def _tile_seeds(story: Story) -> View:
    total = 0 if story.start is None else sum(site["seeds"] for site in story.start["sites"])
    grown = len(_architecture(story))
    started = len(story.blueprints)
    if story.finish is None:
        return _tile("seeds", f"{started} of {total}", "were given a blueprint")
    return _tile("seeds", f"{grown} of {total}", f"grew in; {started} were given a blueprint")


def _tile(name: str, figure: str, beside: str) -> View:
    return {"name": name, "figure": figure, "beside": beside}


def _marks(story: Story) -> list[View]:
    return [
        {
            "left": round(across(mark.at, story.end), 3),
            "what": mark.what,
            "glyph": GLYPHS[mark.what],
            "hover": f"epoch {mark.epoch}: {mark.what} {_some(mark.seeds)}",
        }
        for mark in story.marks
    ]


def _work_unit(story: Story) -> str:
    rewound = ", rewound ones included" if story.rewinds else ""
    epoch = f"; {story.per_epoch:,} an epoch" if story.per_epoch else ""
    return f"training steps{rewound}{epoch}"


def _comparisons(story: Story, walls: dict[str, float]) -> list[View]:
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
        "flops": _giga(float(record["train_flops"])),
        "wall": f"{wall:,.1f} s" if math.isfinite(wall) else "-",
        "ours": False,
    }


def _architecture(story: Story) -> list[View]:
    parts = [] if story.finish is None else story.finish["architecture"]
    return [
        {
            "seed": _seed(part),
            "blueprint": part["blueprint"],
            "parameters": f"{part['parameters']:,}",
            "state": _words(part["state"]),
        }
        for part in parts
    ]


def _decisions(story: Story) -> list[View]:
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
        parts.append(f"{_words(event)}{kind}: {_some([_seed(action) for action in group])}")
    return {
        "epochs": f"{record.epoch}",
        "action": "; ".join(parts),
        "reason": record["reason"],
        "quiet": False,
    }


def _evidence(story: Story) -> list[View]:
    bounds = [float(end) for record in story.evidence for end in record["interval"] or ()]
    values = [float(record["value"]) for record in story.evidence]
    finite = [value for value in (*bounds, *values, 0.0) if math.isfinite(value)]
    low, high = min(finite), max(finite)
    return [_graft(story, record, low, high) for record in story.evidence[:MOST_ROWS]]


def _graft(story: Story, record: Record, low: float, high: float) -> View:
    value = float(record["value"])
    ends = [float(end) for end in record["interval"] or ()]
    return {
        "seed": str(record.address),
        "epoch": record.epoch,
        "measure": _words(str(record["measure"])),
        "value": f"{value:+.4f}",
        "interval": " to ".join(f"{end:+.4f}" for end in ends) or "-",
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
    words = [_words(before[-1]["event"])] if before else []
    end = _words(moves[-1]["to"]) if moves else ""
    return ", ".join([*words, end] if end else words)


def _transition(record: Record) -> View:
    return {
        "epoch": record.epoch,
        "step": f"{record.step:,}",
        "seed": str(record.address),
        "before": _words(record["from"]),
        "after": _words(record["to"]),
        "event": _words(record["event"]),
        "reason": record["reason"],
    }


def _settings(story: Story) -> list[tuple[str, str]]:
    start = story.start
    if start is None:
        return []
    config = dict(start["config"])
    limits = config.pop("limits", None) or {}
    rows = [("task", start["task"]), ("seed", start["seed"]), ("budget", start["budget"])]
    rows += [*config.items(), *((f"limit {name}", value) for name, value in limits.items())]
    rows += [(f"limit {r['name']} from epoch {r.epoch}", r["value"]) for r in story.limits]
    rows += [("lifecycle", f"{start['spec']['name']} {start['spec']['digest']}")]
    return [(_words(str(name)), _value(value)) for name, value in rows]


def _footer(story: Story) -> str:
    if story.start is None:
        return ""
    return f"Run {story.start.run}. Everything on this page is from its event log, {LOG}."


def _readouts(story: Story) -> list[View]:
    return [
        {
            "at": round(across(at, story.end), 3),
            "text": f"epoch {record.epoch}: {percent(float(record['validation_metric']))}, loss "
            f"{float(record['train_loss']):.3g} / {float(record['validation_loss']):.3g}, "
            f"{record['parameters']:,} parameters",
        }
        for at, record in story.epochs
    ]


def _seed(part: View) -> str:
    return str(SeedKey(part["site"], part["slot"], part["generation"]))


def _some(names: Iterable[str], most: int = 6) -> str:
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def _words(name: str) -> str:
    """A name of the spec as one reads it."""
    return name.lower().replace("_", " ")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value is None else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _giga(flops: float) -> str:
    return f"{flops / 1e9:,.2f}" if math.isfinite(flops) else "-"

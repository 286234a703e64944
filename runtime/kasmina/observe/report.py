"""The report of a run: one self-contained HTML file, made from the event log alone.

The log is the source of every figure. `result.json` adds the wall time of each network, which the
log's canonical part does not have.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from kasmina.observe.colours import state_colours
from kasmina.observe.drawing import across
from kasmina.observe.folder import LOG, REPORT, RESULT, write_atomically
from kasmina.observe.log import read_log
from kasmina.observe.panels import lanes, metric_name, panels, percent, work_ticks
from kasmina.observe.record import site_name
from kasmina.observe.story import Story, tell
from kasmina.observe.tables import (
    MOST_ROWS,
    View,
    architecture,
    comparisons,
    decisions,
    evidence,
    settings,
    strategies,
    transition,
)
from kasmina.observe.words import counted, giga, some

GLYPHS = {"grafted": "▲", "kept": "●", "withdrawn": "▽", "rewound": "↺"}


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
    walls = {"grown": story.trained - story.began, **(walls or {})}
    rows, hidden = lanes(story)
    decided = decisions(story)
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
        comparisons=comparisons(story, walls),
        comparison_note="The same data, batches and steps, each trained from its own start; "
        "the FLOPs of the grown network include all that growing took.",
        architecture=architecture(story),
        decisions=decided[:MOST_ROWS],
        decisions_hidden=max(0, len(decided) - MOST_ROWS),
        evidence=evidence(story),
        strategies=strategies(story),
        transitions=[transition(record) for record in story.transitions[:MOST_ROWS]],
        transitions_total=len(story.transitions),
        settings=settings(story),
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


def _ending(status: str) -> str:
    return status if status == "failed" else f"was {status}"


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
        f"{counted(done, 'epoch')} of {start['epochs']}, {counted(story.end, 'training step')}; "
        f"{counted(seeds, 'seed')} at {places}."
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
            f"The run {_ending(story.finish['status'])} before its planned end; the figures are those "
            f"of the network as it stood. {story.finish.get('error') or ''}"
        )
    lost = [
        record.epoch
        for _, record in story.epochs
        if not math.isfinite(float(record["train_loss"]) + float(record["validation_loss"]))
    ]
    if lost:
        notes.append(
            f"The loss was not finite in {counted(len(lost), 'epoch')}, first in epoch {lost[0]}; "
            "the curves have gaps there."
        )
    for record in story.rewinds:
        steps = record["from_step"] - record["to_step"]
        notes.append(
            f"Rewound in epoch {record.epoch}: {counted(steps, 'step')} thrown away. The plots show "
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
        f"{giga(flops)} GFLOP",
        f"growing included, {wall:,.1f} s" if math.isfinite(wall) else "growing included",
    )


def _tile_seeds(story: Story) -> View:
    total = 0 if story.start is None else sum(site["seeds"] for site in story.start["sites"])
    grown = len(architecture(story))
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
            "hover": f"epoch {mark.epoch}: {mark.what} {some(mark.seeds)}",
        }
        for mark in story.marks
    ]


def _work_unit(story: Story) -> str:
    rewound = ", rewound ones included" if story.rewinds else ""
    epoch = f"; {story.per_epoch:,} an epoch" if story.per_epoch else ""
    return f"training steps{rewound}{epoch}"


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

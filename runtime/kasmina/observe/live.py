"""The live view of a run: follows the event log, redraws in a terminal, else prints lines."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kasmina.observe.colours import state_colours
from kasmina.observe.log import EventLog, Record

LAST_EVENTS = 8
SPARKS = "▁▂▃▄▅▆▇█"
BAR_CELLS = 48


@dataclass(slots=True)
class Progress:
    """What a run has come to, from its events so far."""

    task: str = ""
    opening: str = ""
    metric: str = "metric"
    epoch: int = 0
    epochs: int = 0
    parameters: int = 0
    budget: int | None = None
    train_loss: float = float("nan")
    validation_loss: float = float("nan")
    metrics: list[float] = field(default_factory=list)  # validation, one an epoch
    states: dict[str, int] = field(default_factory=dict)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_EVENTS))

    def take(self, record: Record) -> str | None:
        """Take an event in; returns the line that tells it, where it is worth one."""
        if record.kind == "run_started":
            self.task, self.opening = f"{record['task']}, seed {record['seed']}", _opening(record)
            self.epochs, self.metric = record["epochs"], str(record.get("metric", self.metric))
            self.parameters, self.budget = record["parameters"], record["budget"]
        elif record.kind == "epoch":
            self._epoch(record)
        line = told(record)
        if line is not None and record.kind not in ("run_started", "epoch"):
            self.last.append(line)
        return line

    def _epoch(self, record: Record) -> None:
        self.epoch, self.parameters = record.epoch, record["parameters"]
        self.train_loss = float(record["train_loss"])
        self.validation_loss = float(record["validation_loss"])
        self.metrics.append(float(record["validation_metric"]))
        self.states = dict(record["states"])


def told(record: Record) -> str | None:
    """Return the line that tells an event, or None for one that only a program reads."""
    tell = _TOLD.get(record.kind)
    return None if tell is None else tell(record)


def _started(record: Record) -> str:
    return f"{record['task']}, seed {record['seed']}: {_opening(record)}"


def _opening(record: Record) -> str:
    seeds = sum(site["seeds"] for site in record["sites"])
    budget = "" if record["budget"] is None else f", budget {record['budget']:,}"
    return f"{record['parameters']:,} parameters{budget}, {seeds} seeds, {record['epochs']} epochs"


def _epoch(record: Record) -> str:
    states = "  ".join(f"{name} {count}" for name, count in record["states"].items() if count)
    return (
        f"epoch {record.epoch:>4}  loss {float(record['train_loss']):.4f}  "
        f"validation {float(record['validation_loss']):.4f} / "
        f"{float(record['validation_metric']):.2%}  {record['parameters']:,} parameters  {states}"
    )


def _transition(record: Record) -> str:
    reason = f"  ({record['reason']})" if record["reason"] else ""
    return (
        f"epoch {record.epoch:>4}  {record.address}  {record['from']} -> {record['to']}  "
        f"{record['event']}{reason}"
    )


def _rewind(record: Record) -> str:
    return (
        f"epoch {record.epoch:>4}  rewound from step {record['from_step']} to {record['to_step']}"
    )


def _warning(record: Record) -> str:
    return f"epoch {record.epoch:>4}  {record['reason']}"


def _comparison(record: Record) -> str:
    return (
        f"{record['name']}: {record['parameters']:,} parameters, test "
        f"{float(record['test_metric']):.2%}"
    )


def _finished(record: Record) -> str:
    return (
        f"{record['status']}: test {float(record['test_metric']):.2%} with "
        f"{record['parameters']:,} parameters"
    )


_TOLD = {
    "run_started": _started,
    "epoch": _epoch,
    "transition": _transition,
    "rewind": _rewind,
    "warning": _warning,
    "comparison": _comparison,
    "run_finished": _finished,
}


@contextmanager
def follow(log: EventLog, console: Console, before: Sequence[Record] = ()) -> Iterator[None]:
    """Show what the log takes in, as long as the context lasts.

    In a terminal one view is redrawn; with NO_COLOR, in a dumb terminal or in a file each epoch and
    each transition is a line.

    Args:
        log: what is followed.
        console: where it is shown.
        before: events that a resumed run already has; only the redrawn view needs them.
    """
    if plain(console):
        log.subscribe(lambda record: _print_line(console, record))
        yield
        return
    view = LiveView()
    for record in before:
        view.take(record)
    with Live(console=console, refresh_per_second=8, get_renderable=view.render):
        log.subscribe(view.take)
        yield


def plain(console: Console) -> bool:
    """Tell whether lines suit the console better than a view that is redrawn."""
    return not console.is_terminal or console.is_dumb_terminal or "NO_COLOR" in os.environ


def _print_line(console: Console, record: Record) -> None:
    line = told(record)
    if line is not None:
        console.print(Text(line), soft_wrap=True)


class LiveView:
    """What is redrawn in a terminal; events and redraws may come from different threads."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._lock = Lock()

    def take(self, record: Record) -> None:
        """Take an event in."""
        with self._lock:
            self.progress.take(record)

    def render(self) -> RenderableType:
        """Return the view as it stands."""
        with self._lock:
            seen = self.progress
            last = [
                Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in seen.last
            ]
            title = Text.assemble((seen.task, "bold"), (f"  {seen.opening}", "dim"))
            return Group(title, Text(), _figures(seen), Text(), *last)


def _figures(seen: Progress) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right")
    metric = f"{seen.metrics[-1]:.2%}" if seen.metrics else "-"
    budget = "" if seen.budget is None else f" of {seen.budget:,}"
    seeds = sum(seen.states.values())
    table.add_row("epoch", f"{seen.epoch} of {seen.epochs}", _bar(seen.epoch, seen.epochs))
    table.add_row(seen.metric, metric, Text(sparkline(seen.metrics), style="green"))
    table.add_row("loss", f"{seen.train_loss:.4f}", f"validation {seen.validation_loss:.4f}")
    picture = _bar(seen.parameters, seen.budget) if seen.budget else ""
    table.add_row("parameters", f"{seen.parameters:,}{budget}", picture)
    table.add_row("seeds", str(seeds), _states(seen.states))
    return table


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(
        total=max(total, 1),
        completed=min(done, total),
        width=BAR_CELLS,
        complete_style="cyan",
        finished_style="cyan",
    )


def _states(states: dict[str, int]) -> Text:
    """A bar of the seeds, one colour a state, and the counts below it."""
    present = {name: count for name, count in states.items() if count}
    colours = state_colours(present)
    total = sum(present.values())
    bar, key = Text(), Text()
    for name, count in present.items():
        bar.append("━" * max(1, round(BAR_CELLS * count / total)), style=colours[name][1])
        key.append("● ", style=colours[name][1])
        key.append(f"{name.lower().replace('_', ' ')} {count}   ")
    return Text("\n").join([bar, key])


def sparkline(values: list[float], cells: int = BAR_CELLS) -> str:
    """Draw the last values as a row of bars; those that are not finite are blanks."""
    shown = values[-cells:]
    finite = [value for value in shown if value - value == 0]
    if not finite:
        return " " * len(shown)
    low, span = min(finite), max(finite) - min(finite)
    scale = (len(SPARKS) - 1) / span if span else 0.0
    return "".join(SPARKS[round((v - low) * scale)] if v - v == 0 else " " for v in shown)

"""Lives a logged run again, from its inputs, through the lifecycle itself.

The log holds every step's inputs (commands and measurements), so the generated step must take the
same edges, and from the allocations and releases the same architecture must come out. Whatever
differs is listed: a log that was changed, or a lifecycle that is not the run's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kasmina.errors import KasminaError
from kasmina.lifecycle import ContextTable, Lifecycle, LimitTable, StateTensor, step
from kasmina.observe.log import Record, TornLine, read_log
from kasmina.sites.plan import Planes

LOG = "events.jsonl"


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What the replay came to; `mismatches` is empty where it agrees with the log."""

    run: str
    status: str
    steps: int
    transitions: int
    states: dict[str, int]
    architecture: list[dict[str, Any]]
    mismatches: list[str]
    torn: str  # what the log says of its torn last line; empty where it is whole


def replay(path: Path | str, *, lifecycle: Lifecycle | None = None) -> ReplayReport:
    """Replay a run directory or a log file.

    Args:
        path: run directory, or its `events.jsonl`.
        lifecycle: the lifecycle of the run, where it is not a built-in one.

    Raises:
        LogError: the log cannot be read.
        KasminaError: the log holds no run, or the run had another lifecycle.
    """
    path = Path(path)
    file = path / LOG if path.is_dir() else path
    records, torn = _read(file)
    if not records or records[0].kind != "run_started":
        raise KasminaError(f"{file}: this log does not begin with 'run_started', so it is no run")
    player = _Player(records[0], lifecycle or _built_in(records[0], file))
    for record in records[1:]:
        player.play(record)
    return player.report(records[0].run, torn)


def _read(file: Path) -> tuple[list[Record], str]:
    """The whole events of a log, and what is wrong with its last line if it is torn."""
    try:
        return read_log(file), ""
    except TornLine as error:
        return read_log(file, ignore_torn=True), str(error)


def _built_in(start: Record, file: Path) -> Lifecycle:
    digest = start.fields["spec"]["digest"]
    for lifecycle in (Lifecycle.default(), Lifecycle.v1()):
        if lifecycle.digest == digest:
            return lifecycle
    raise KasminaError(
        f"{file}: the run was made under lifecycle '{start.fields['spec']['name']}' with digest "
        f"{digest[:12]}, the built-in one has {Lifecycle.default().digest[:12]}; pass the package "
        "that was built from the run's spec with --lifecycle DIR"
    )


@dataclass(slots=True)
class _Player:
    """Plays one record after the other."""

    start: Record
    lifecycle: Lifecycle
    state: StateTensor = field(init=False)
    limits: LimitTable = field(init=False)
    status: str = "interrupted"
    steps: int = 0
    transitions: int = 0
    mismatches: list[str] = field(default_factory=list)
    _expected: dict[int, int] = field(default_factory=dict)  # row -> edge of the step just played
    _kept: dict[int, tuple[StateTensor, dict[int, dict[str, Any]]]] = field(default_factory=dict)
    _held: dict[int, dict[str, Any]] = field(default_factory=dict)  # row -> what was allocated

    def __post_init__(self) -> None:
        sites = self.start.fields["sites"]
        self.state = StateTensor(sum(site["seeds"] for site in sites), lifecycle=self.lifecycle)
        self.limits = LimitTable(self.lifecycle)
        for name, value in self.start.fields["config"]["limits"].items():
            self.limits.override(name, _number(value))

    def play(self, record: Record) -> None:
        """Play one record; kinds that change nothing are passed over."""
        handler = getattr(self, f"_play_{record.kind}", None)
        if record.kind != "transition":
            self._missed(record)
        if handler is not None:
            handler(record)

    def report(self, run: str, torn: str) -> ReplayReport:
        """The outcome; also holds transitions that the log should have and does not."""
        names = Counter(self.state.state(row).name for row in range(len(self.state)))
        return ReplayReport(
            run,
            self.status,
            self.steps,
            self.transitions,
            dict(sorted(names.items())),
            self._architecture(),
            self.mismatches,
            torn,
        )

    def _play_limit(self, record: Record) -> None:
        self.limits.override(record.fields["name"], _number(record.fields["value"]))

    def _play_step(self, record: Record) -> None:
        events = torch.zeros(len(self.state), dtype=torch.int32)
        context = ContextTable(len(self.state), lifecycle=self.lifecycle)
        for entry in record.fields["rows"]:
            events[entry["row"]] = entry["events"]
            for name, value in entry["context"].items():
                context.set(entry["row"], name, _number(value))
        result = step(self.state, events, context, self.limits, record.fields["tick"])
        self.steps += 1
        self._expected = {row: int(result.edge[row]) for row in result.rows.tolist()}

    def _play_transition(self, record: Record) -> None:
        row = self._row(record)
        edge = self._expected.pop(row, None)
        self.transitions += 1
        if edge != record.fields["edge"]:
            self._mismatch(
                record,
                f"the log takes edge {record.fields['edge']} ({record.fields['event']}) from "
                f"{record.fields['from']} to {record.fields['to']}, the replay "
                + ("takes none" if edge is None else f"takes edge {edge}"),
            )

    def _play_snapshot(self, record: Record) -> None:
        self._kept[record.fields["number"]] = (self.state.snapshot(), dict(self._held))

    def _play_rewind(self, record: Record) -> None:
        kept = self._kept.get(record.fields["number"])
        if kept is None:
            self._mismatch(record, f"there is no snapshot {record.fields['number']}")
            return
        self.state.load_state_dict(kept[0].state_dict())
        self._held = dict(kept[1])
        rows = [self._place(address) for address in record.fields["addresses"]]
        self.state.move(rows, self.lifecycle.State[record.fields["to"]])

    def _play_allocated(self, record: Record) -> None:
        self._held[self._row(record)] = {
            "blueprint": record.fields["blueprint"],
            "parameters": record.fields["parameters"],
        }

    def _play_released(self, record: Record) -> None:
        if self._held.pop(self._row(record), None) is None:
            self._mismatch(record, "a seed is released that held no blueprint")

    def _play_run_finished(self, record: Record) -> None:
        self.status = record.fields["status"]
        names = Counter(self.state.state(row).name for row in range(len(self.state)))
        if dict(names) != record.fields["states"]:
            self._mismatch(
                record, f"states are {dict(names)}, the log says {record.fields['states']}"
            )
        if self._architecture() != record.fields["architecture"]:
            self._mismatch(
                record,
                f"the architecture is {self._architecture()}, the log says "
                f"{record.fields['architecture']}",
            )

    def _missed(self, record: Record) -> None:
        for row, edge in self._expected.items():
            self._mismatch(record, f"the replay takes edge {edge} for row {row}, the log has none")
        self._expected = {}

    def _architecture(self) -> list[dict[str, Any]]:
        """What is grown, by row: the same records as the Gardener writes at the end."""
        mixed = Planes.of(self.state.lifecycle).mixed[self.state.codes.numpy()]
        return [
            {**self._address(row), **held, "state": self.state.state(row).name}
            for row, held in sorted(self._held.items())
            if mixed[row]
        ]

    def _address(self, row: int) -> dict[str, Any]:
        for site in self.start.fields["sites"]:
            if site["first_row"] <= row < site["first_row"] + site["seeds"]:
                return {
                    "site": site["path"],
                    "slot": row - site["first_row"],
                    "generation": int(self.state["generation"][row]),
                }
        raise KasminaError(f"row {row} lies in no site of the log")

    def _row(self, record: Record) -> int:
        assert record.address is not None  # `check` has made sure, for these kinds
        return self._place(record.address._asdict())

    def _place(self, address: dict[str, Any]) -> int:
        for site in self.start.fields["sites"]:
            if site["path"] == address["site"]:
                return int(site["first_row"]) + int(address["slot"])
        raise KasminaError(f"the log names a site {address['site']!r} that the run does not have")

    def _mismatch(self, record: Record, what: str) -> None:
        self.mismatches.append(f"event {record.seq} ({record.kind}, step {record.step}): {what}")


def _number(value: float | str | bool) -> float | int | bool:
    """A logged number; NaN and the infinities are strings in a log."""
    return float(value) if isinstance(value, str) else value

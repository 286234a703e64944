"""What happened in a run, put together from its log: the matter of the report.

Places in time are *work*: training steps including those that a rewind threw away, so they never
go back, and what was thrown away still shows as the time that it took.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from kasmina.observe.record import Record, SeedKey, site_name

Lane = tuple[str, int]  # site and slot

GRAFT = "graft"  # the effect of an edge from which on a seed touches the network


@dataclass(slots=True)
class Span:
    """One stay of a seed in a state."""

    state: str
    start: int
    epoch: int
    generation: int
    event: str
    reason: str
    end: int | None = None  # None while it lasts
    end_epoch: int | None = None
    holds_from: int | None = None  # where in it the seed held a blueprint
    holds_to: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that changed the network, at one place in time."""

    at: int
    epoch: int
    what: str  # grafted, kept, withdrawn or rewound
    seeds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure over work; gaps are NaN."""

    name: str
    points: tuple[tuple[int, float], ...]

    @property
    def last(self) -> float:
        """The last finite value; NaN where there is none."""
        finite = [value for _, value in self.points if math.isfinite(value)]
        return finite[-1] if finite else math.nan


@dataclass(slots=True)
class Story:
    """A run from its first event to its last."""

    start: Record | None = None
    finish: Record | None = None
    end: int = 0  # work at the last event
    per_epoch: int | None = None  # steps
    epochs: list[tuple[int, Record]] = field(default_factory=list)
    parameters: list[tuple[int, int]] = field(default_factory=list)
    lanes: dict[Lane, list[Span]] = field(default_factory=dict)
    blueprints: dict[Lane, str] = field(default_factory=dict)  # the last one that each held
    marks: list[Mark] = field(default_factory=list)
    decisions: list[Record] = field(default_factory=list)
    evidence: list[Record] = field(default_factory=list)
    strategies: list[Record] = field(default_factory=list)  # chosen, and what was learned
    transitions: list[Record] = field(default_factory=list)
    refusals: list[Record] = field(default_factory=list)
    rewinds: list[Record] = field(default_factory=list)
    limits: list[Record] = field(default_factory=list)
    comparisons: list[Record] = field(default_factory=list)
    began: float = math.nan  # time of day of the first event, seconds
    trained: float = math.nan  # and of the last epoch

    @property
    def initial(self) -> str | None:
        """The state that seeds wait in; where the log does not say, the one most left first."""
        if self.start is not None and "initial" in self.start["spec"]:
            return str(self.start["spec"]["initial"])
        first = [spans[0].state for spans in self.lanes.values()]
        return max(first, key=first.count) if first else None

    @property
    def terminal(self) -> list[str] | None:
        """The states that no seed leaves; None where the log does not say."""
        spec = {} if self.start is None else self.start["spec"]
        return list(spec["terminal"]) if "terminal" in spec else None

    def curve(self, name: str, field_name: str) -> Curve:
        """One field of the epochs' events."""
        return Curve(name, tuple((at, float(record[field_name])) for at, record in self.epochs))

    def states(self) -> list[str]:
        """Every state that a seed was in, in the order in which they were entered."""
        ordered = sorted((span.start, span.state) for span in self._spans())
        return list(dict.fromkeys(state for _, state in ordered))

    def _spans(self) -> Iterable[Span]:
        return (span for spans in self.lanes.values() for span in spans)


def tell(records: Sequence[Record]) -> Story:
    """Put a story together from a log's events."""
    teller = _Teller(Story())
    for record in records:
        teller.take(record)
    return teller.finish()


@dataclass(slots=True)
class _Teller:
    """Reads the events in order."""

    story: Story
    _lost: int = 0  # steps that rewinds have thrown away so far
    _kept: dict[int, dict[Lane, str]] = field(default_factory=dict)  # states at each snapshot
    _grafted: set[Lane] = field(default_factory=set)

    def take(self, record: Record) -> None:
        story = self.story
        story.end = max(story.end, self._at(record))
        time = float(record.clock.get("time", math.nan))
        story.began = time if math.isnan(story.began) else story.began
        story.trained = time if record.kind == "epoch" else story.trained
        handler: Callable[[Record], None] | None = getattr(self, f"_{record.kind}", None)
        if handler is not None:
            handler(record)

    def finish(self) -> Story:
        story = self.story
        story.marks = _merged(story.marks)
        pairs = pairwise(story.epochs)
        lengths = [after - before for (before, _), (after, _) in pairs if after > before]
        if story.epochs and story.epochs[0][0]:
            lengths.append(story.epochs[0][0])
        story.per_epoch = min(lengths, default=None)
        return story

    def _at(self, record: Record) -> int:
        return record.step + self._lost

    def _run_started(self, record: Record) -> None:
        self.story.start = record
        self.story.parameters.append((self._at(record), int(record["parameters"])))

    def _epoch(self, record: Record) -> None:
        self.story.epochs.append((self._at(record), record))
        self.story.parameters.append((self._at(record), int(record["parameters"])))

    def _transition(self, record: Record) -> None:
        lane = _lane(record.address)
        spans = self.story.lanes.setdefault(lane, [])
        if not spans:
            spans.append(Span(record["from"], 0, 0, _generation(record.address), "", ""))
        self._enter(lane, record["to"], record, record["event"], record["reason"])
        self.story.transitions.append(record)
        if GRAFT in (str(effect).lower() for effect in record["effects"]):
            self._grafted.add(lane)
            self._mark("grafted", record)

    def _mark(self, what: str, record: Record) -> None:
        mark = Mark(self._at(record), record.epoch, what, (str(record.address),))
        self.story.marks.append(mark)

    def _enter(self, lane: Lane, state: str, record: Record, event: str, reason: str) -> None:
        before = self.story.lanes[lane][-1]
        before.end, before.end_epoch = self._at(record), record.epoch
        generation = _generation(record.address) if record.address else before.generation
        entered = Span(state, self._at(record), record.epoch, generation, event, reason)
        if before.holds_from is not None and before.holds_to is None:
            before.holds_to = entered.holds_from = entered.start
            entered.holds_to = None
        self.story.lanes[lane].append(entered)

    def _allocated(self, record: Record) -> None:
        lane = _lane(record.address)
        self.story.blueprints[lane] = str(record["blueprint"])
        if lane in self.story.lanes:
            self.story.lanes[lane][-1].holds_from = self._at(record)

    def _released(self, record: Record) -> None:
        lane = _lane(record.address)
        if lane in self.story.lanes and self.story.lanes[lane][-1].holds_from is not None:
            self.story.lanes[lane][-1].holds_to = self._at(record)
        if lane in self._grafted:
            self._grafted.discard(lane)
            self._mark("withdrawn", record)

    def _snapshot(self, record: Record) -> None:
        self._kept[record["number"]] = {
            lane: spans[-1].state for lane, spans in self.story.lanes.items()
        }

    def _rewind(self, record: Record) -> None:
        """Count the lost steps, and put every seed where the rewind put it."""
        self.story.rewinds.append(record)
        self._lost += max(0, record["from_step"] - record["to_step"])
        at = self._at(record)
        self.story.end = max(self.story.end, at)
        ended = {(address["site"], address["slot"]) for address in record["addresses"]}
        seeds = tuple(f"{site_name(site)}[{slot}]" for site, slot in sorted(ended))
        self.story.marks.append(Mark(at, record.epoch, "rewound", seeds))
        self._grafted -= ended
        kept = self._kept.get(record["number"], {})
        for lane, spans in self.story.lanes.items():
            state = record["to"] if lane in ended else kept.get(lane, spans[0].state)
            if state != spans[-1].state:
                self._enter(lane, state, record, "rewind", "the run was rewound")

    def _decision(self, record: Record) -> None:
        self.story.decisions.append(record)

    def _evidence(self, record: Record) -> None:
        self.story.evidence.append(record)

    def _strategy(self, record: Record) -> None:
        self.story.strategies.append(record)

    def _learned(self, record: Record) -> None:
        self.story.strategies.append(record)

    def _refused(self, record: Record) -> None:
        self.story.refusals.append(record)

    def _limit(self, record: Record) -> None:
        self.story.limits.append(record)

    def _comparison(self, record: Record) -> None:
        self.story.comparisons.append(record)

    def _run_finished(self, record: Record) -> None:
        """What is grafted and has come to an end state is kept."""
        self.story.finish = record
        terminal = self.story.terminal
        for lane in sorted(self._grafted):
            last = self.story.lanes[lane][-1]
            if terminal is None or last.state in terminal:
                seed = str(SeedKey(*lane, last.generation))
                self.story.marks.append(Mark(last.start, last.epoch, "kept", (seed,)))


def _lane(address: SeedKey | None) -> Lane:
    assert address is not None  # the log's check has seen to it for these kinds
    return address.site, address.slot


def _generation(address: SeedKey | None) -> int:
    return 0 if address is None else address.generation


def _merged(marks: list[Mark]) -> list[Mark]:
    """One mark for all seeds to which the same happened at once."""
    together: dict[tuple[int, str], Mark] = {}
    for mark in marks:
        before = together.get((mark.at, mark.what))
        seeds = mark.seeds if before is None else tuple(dict.fromkeys(before.seeds + mark.seeds))
        together[mark.at, mark.what] = Mark(mark.at, mark.epoch, mark.what, seeds)
    return sorted(together.values(), key=lambda mark: mark.at)

"""A trail of SPIN as states, values, events and YAML lines.

On replay the model prints one line for each entity at each step: whether the step is a tick, whether
the formulas speak of this entity, its number, state, epochs and region, the commands that it was
given, the edge that it takes and whether it was refused room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from kasmina_generator.emit.promela import Stretch, Stretches, commands
from kasmina_generator.model import Edge, Scalar, Spec
from kasmina_generator.prove.paths import values

_MARK = "kasmina "
_CYCLE = "START OF CYCLE"


@dataclass(frozen=True, slots=True)
class Row:
    """One entity in one step, as it stands before; `edge` None: it stays."""

    entity: int
    observed: bool  # the formulas speak of it
    state: str
    epochs: int
    seen: dict[str, Scalar]  # values under which its guards read as they did
    commands: tuple[str, ...]
    edge: Edge | None
    refused: bool

    def __str__(self) -> str:
        where = f"{self.entity}{'*' if self.observed else ''}: {self.state}@{self.epochs}"
        told = f" (told {' and '.join(self.commands)})" if self.commands else ""
        if self.edge is None:
            return f"{where}{told}{' finds no room' if self.refused else ''}"
        seen = f" {values(self.seen)}" if self.seen else ""
        return f"{where}{told}{seen} --{self.edge.event}--> {self.edge.target}  {self.edge.place}"


@dataclass(frozen=True, slots=True)
class Step:
    """One synchronous step of all entities."""

    tick: bool
    repeats: bool  # it belongs to what goes on for ever
    rows: tuple[Row, ...]

    @property
    def quiet(self) -> bool:
        """Whether nobody moves and nobody is refused."""
        return not any(row.edge or row.refused for row in self.rows)


def read_trail(text: str, spec: Spec, found: Stretches) -> tuple[Step, ...]:
    """Return the steps that a verifier printed on replay; `found` is what the model was made of."""
    names = _Names(spec, found)
    steps: list[Step] = []
    rows: list[Row] = []
    repeats = False
    for line in text.splitlines():
        if _CYCLE in line:
            repeats = True
        elif line.lstrip().startswith(_MARK):
            tick, *numbers = map(int, line.split()[1:])
            rows.append(names.row(*numbers))
            if len(rows) == names.entities(text):
                steps.append(Step(bool(tick), repeats, tuple(rows)))
                rows = []
    return tuple(step for step in steps if step.tick or not step.quiet)


class _Names:
    """What the numbers of a trail stand for."""

    def __init__(self, spec: Spec, found: Stretches) -> None:
        self._found = found
        self._edges = {edge.index: edge for edge in spec.edges}
        self._states = {state.code: state.name for state in spec.states}
        self._commands = [event.name for event in commands(spec)]

    def entities(self, text: str) -> int:
        lines = (line.split() for line in text.splitlines() if line.lstrip().startswith(_MARK))
        return 1 + max(int(words[3]) for words in lines)

    def row(
        self,
        observed: int,
        entity: int,
        code: int,
        epochs: int,
        region: int,
        asked: int,
        edge: int,
        refused: int,
    ) -> Row:
        state = self._states[code]
        regions = _stretch(self._found[state], epochs).regions
        return Row(
            entity=entity,
            observed=bool(observed),
            state=state,
            epochs=epochs,
            seen=dict(regions[region].row) if region < len(regions) else {},
            commands=tuple(name for bit, name in enumerate(self._commands) if asked >> bit & 1),
            edge=self._edges.get(edge),
            refused=bool(refused),
        )


def _stretch(found: tuple[Stretch, ...], epochs: int) -> Stretch:
    return next(each for each in found if each.final or epochs <= each.last)


def lines(steps: tuple[Step, ...]) -> Iterator[str]:
    """Yield a trail for people: who moves by which edge, quiet ticks drawn together."""
    number = 1
    repeats = False
    for (quiet, again), group in groupby(steps, key=lambda step: (step.quiet, step.repeats)):
        if again and not repeats:
            yield "and from here on for ever:"
        repeats = again
        run = list(group)
        if quiet:
            ticks = "a tick" if len(run) == 1 else f"{len(run)} ticks"
            stay = ", ".join(f"{row}" for row in run[-1].rows)
            yield f"{_span(number, len(run))} {ticks}: {stay}"
        else:
            for place, step in enumerate(run):
                moving = "; ".join(str(row) for row in step.rows if row.edge or row.refused)
                yield f"{number + place:>4} {'tick' if step.tick else 'command'}: {moving}"
        number += len(run)


def _span(first: int, count: int) -> str:
    return f"{first:>4}" if count == 1 else f"{first:>4} to {first + count - 1}"

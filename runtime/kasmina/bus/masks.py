"""Holds commands against what is legal now, as the training process last told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kasmina_generated.messages.types import Command, Query, Refused, Target


class SiteRows(NamedTuple):
    """Where the seeds of a site stand in the state."""

    first: int  # row of its first seed
    seeds: int


def quoted(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are; quoted, as one may be '.'."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


@dataclass(frozen=True, slots=True, eq=False)
class ActionMask:
    """What is legal at one moment; plain values, made by whoever knows the state.

    Attributes:
        run: name of the run.
        sites: by path, in the order of their rows.
        legal: bool `[rows, events]`: the generated table by the state of each row.
        events: names of the mask's columns.
        states: name of the state of each row.
        generations: int `[rows]`.
        event_of: the event that a kind of command asks for, by the name of its class; other kinds
            are not about seeds and are not checked here.
    """

    run: str
    sites: Mapping[str, SiteRows]
    legal: NDArray[np.bool_]
    events: Sequence[str]
    states: Sequence[str]
    generations: NDArray[Any]
    event_of: Mapping[str, str]

    def __call__(self, command: Command) -> Refused | None:
        """Say why a command cannot be accepted; None where it can.

        One for a site or a layer can be if it is legal for any of its seeds.
        """
        if command.run != self.run:
            detail = f"this is run {self.run!r} and not {command.run!r}"
            return self._refused("unknown_run", detail, near=(self.run,))
        target = getattr(command, "target", None)
        if not isinstance(target, Target):
            return None
        rows = self.rows(target)
        if isinstance(rows, Refused):
            return rows
        event = self.event_of.get(type(command).__name__)
        if event is None or isinstance(command, Query):
            return None
        return self._illegal(rows, event)

    def rows(self, target: Target) -> list[int] | Refused:
        """The rows of a target, or why there are none."""
        if target.site is not None and target.layer is not None:
            return self._refused("malformed", "the target names a site and a layer: give one")
        if target.site is None and target.slot is not None:
            return self._refused("malformed", "the target names a slot and no site")
        if target.site is not None:
            return self._in_site(target, target.site)
        if target.layer is None:
            return list(range(len(self.states)))
        below = f"{target.layer}."
        found = [
            row
            for path, (first, seeds) in self.sites.items()
            if path == target.layer or path.startswith(below)
            for row in range(first, first + seeds)
        ]
        return found or self._unknown("unknown_site", "layer", target.layer, self._layers())

    def _in_site(self, target: Target, path: str) -> list[int] | Refused:
        if path not in self.sites:
            return self._unknown("unknown_site", "site", path, list(self.sites))
        first, seeds = self.sites[path]
        if target.slot is None:
            return list(range(first, first + seeds))
        if target.slot >= seeds:
            detail = f"site {path!r} has slots 0 to {seeds - 1}, and no slot {target.slot}"
            return self._refused("unknown_seed", detail, near=(f"{path}[{seeds - 1}]",))
        row = first + target.slot
        now = int(self.generations[row])
        if target.generation not in (None, now):
            detail = (
                f"{path}[{target.slot}] is in life {now}, and the command is for life "
                f"{target.generation}: look at it again"
            )
            return self._refused("stale", detail, state=self.states[row])
        return [row]

    def _illegal(self, rows: list[int], event: str) -> Refused | None:
        if event not in self.events:
            return self._unknown("unknown_name", "event", event, list(self.events))
        if self.legal[rows, self.events.index(event)].any():
            return None
        state = self.states[rows[0]]
        legal = tuple(str(self.events[at]) for at in np.flatnonzero(self.legal[rows[0]]).tolist())
        whose = (
            "the seed is" if len(rows) == 1 else f"none of the {len(rows)} seeds allows it; one is"
        )
        detail = (
            f"{event} is not legal: {whose} in {state}, which takes {', '.join(legal) or 'nothing'}"
        )
        return self._refused("illegal", detail, state=state, legal=legal)

    def _layers(self) -> list[str]:
        parts = [path.split(".") for path in self.sites]
        return sorted({".".join(p[: at + 1]) for p in parts for at in range(len(p))})

    def _unknown(self, reason: Any, what: str, name: str, known: list[str]) -> Refused:
        near = tuple(get_close_matches(name, known, n=3, cutoff=0.4))
        guess = f"; did you mean {near[0]!r}?" if near else f"; there are {quoted(known)}"
        return self._refused(reason, f"there is no {what} {name[:256]!r}{guess}", near=near)

    def _refused(self, reason: Any, detail: str, **fields: Any) -> Refused:
        return Refused(run=self.run, reason=reason, detail=detail[:8192], **fields)

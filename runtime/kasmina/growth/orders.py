"""Carries out, on a Gardener, what the messages of a bus ask for.

`check` says from any thread what is not legal, by what `look` last noted; all else belongs to the
training thread, between two steps.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, overload

from numpy.typing import NDArray

from kasmina.bus.masks import ActionMask, SiteRows, quoted
from kasmina.grafting import StrategyError, known_strategies, strategy_number
from kasmina.growth.contest import TOO_LATE
from kasmina.growth.controller import Command
from kasmina.growth.gardener import Gardener
from kasmina.growth.observation import action_mask
from kasmina.growth.planes import mask_in
from kasmina.growth.trial import CANCEL, EMERGENCY
from kasmina.lifecycle import LimitTable, StepResult
from kasmina_generated.messages import types
from kasmina_generated.messages.types import Applied, Refused, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

EVENT_OF = {"Germinate": "request_germination", "Cancel": CANCEL, "Rollback": EMERGENCY}
LONGEST_DETAIL = 1 << 20  # characters of what a query is answered
MOST_SEEDS = 65_536  # that an answer names


class Orders:
    """The commands of one run.

    Args:
        gardener: of the run.
        run: its name.
        keeps: whether the run saves checkpoints.
    """

    def __init__(self, gardener: Gardener, run: str, *, keeps: bool = False) -> None:
        self.paused = False
        self._gardener, self._run, self._keeps = gardener, run, keeps
        self._garden, self._lifecycle = gardener.garden, gardener.garden.state.lifecycle
        self._names = tuple(state.name for state in self._lifecycle.State)
        self._events = tuple(event.name for event in self._lifecycle.Event)
        self._sites = {
            path or ".": SiteRows(site.first_row, site.n_seeds)
            for path, site in self._garden.sites.items()
        }
        self._noted = -1
        self._moment = self.moment()
        self.look()

    # ------------------------------------------------------------------ any thread

    def check(self, command: types.Command) -> Refused | None:
        """Why a command cannot be accepted, by what was noted last; None where it can."""
        mask, saved = self._mask, self._saved
        if (refused := mask(command)) is not None:
            return self._closed(command) or refused
        match command:
            case types.Germinate(target=target, blueprint=blueprint, strategy=strategy):
                rows = mask.rows(target)
                if strategy is not None and (refused := self._strategy(strategy)) is not None:
                    return refused
                return None if isinstance(rows, Refused) else self._blueprint(rows, blueprint)
            case types.SetStrategy(strategy=strategy):
                return self._strategy(strategy)
            case types.SetLimit(name=name, value=value):
                return self._limit(name, value)
            case types.Rollback(target=target):
                rows = mask.rows(target)
                if not isinstance(rows, Refused) and not saved[rows].any():
                    return self._no_snapshot(mask.states[rows[0]])
            case types.Checkpoint() if not self._keeps:
                return self._no("no_checkpoint", "this run keeps no checkpoints; start it with "
                                "--checkpoint-every 1 or more")  # fmt: skip
        return None

    # ------------------------------------------------------------------ the training thread

    def look(self) -> None:
        """Note what is legal now; cheap where no seed has moved."""
        gardener = self._gardener
        if self._noted == gardener.moves:
            return
        state = self._garden.state
        codes: NDArray[Any] = state.codes.cpu().numpy().copy()
        self._saved = gardener.trial.saved().numpy()
        self._mask = ActionMask(
            run=self._run,
            sites=self._sites,
            legal=action_mask(self._garden, gardener.closed),
            events=self._events,
            states=_Named(codes, self._names),
            generations=state["generation"].cpu().numpy().copy(),
            event_of=EVENT_OF,
        )
        self._noted = gardener.moves

    def carry_out(self, command: types.Command) -> Applied | Refused | Status:
        """Do what a command asks, wholly or not at all, and say what became of it."""
        self.look()
        self._moment = self.moment()  # before it, as it may take the run back itself
        if (refused := self.check(command)) is not None:
            return refused
        match command:
            case types.Germinate() | types.Cancel() | types.Rollback():
                return self._seeds(command)
            case types.SetLimit(name=name, value=value):
                return self._set_limit(name, value)
            case types.SetStrategy(target=target, strategy=strategy):
                return self._set_strategy(self._rows(target), strategy)
            case types.Pause() | types.Resume():
                self.paused = isinstance(command, types.Pause)
                return self.done(detail="the run is held" if self.paused else "the run goes on")
            case types.Query(what=what, target=target):
                return self._status(what, None if target is None else self._rows(target))
        return self._no("failed", f"nothing here carries out {type(command).__name__}")

    def done(
        self, rows: Sequence[int] = (), detail: str = "", moment: Mapping[str, Any] | None = None
    ) -> Applied:
        """The answer that a command was carried out, for some rows."""
        seeds = tuple(self._address(row) for row in rows[:MOST_SEEDS])
        at = self._moment if moment is None else moment
        return Applied(run=self._run, **at, seeds=seeds, detail=detail[:4096])

    def moment(self) -> dict[str, Any]:
        """Where the run is, as an `Applied` tells it; from any thread."""
        clock, milestone = self._gardener.clock, self._gardener.milestones
        return {"epoch": clock.epoch, "step": clock.step, "milestone": milestone}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"paused": self.paused, "strategies": dict(self._gardener.holdings.strategies)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.paused = state["paused"]
        self._gardener.holdings.strategies.clear()
        self._gardener.holdings.strategies.update(state["strategies"])
        self._noted = -1
        self.look()

    def _rows(self, target: types.Target) -> list[int]:
        rows = self._mask.rows(target)
        assert not isinstance(rows, Refused)  # it was checked
        return rows

    def _seeds(self, command: types.Germinate | types.Cancel | types.Rollback) -> Applied | Refused:
        event = EVENT_OF[type(command).__name__]
        legal = self._mask.legal[:, self._events.index(event)]
        rows = [row for row in self._rows(command.target) if legal[row]]
        kind = strategy = None
        left = ""
        if isinstance(command, types.Rollback):
            rows = [row for row in rows if self._saved[row]]
            if not rows:
                return self._no_snapshot(self._mask.states[self._rows(command.target)[0]])
        if isinstance(command, types.Germinate):
            kind, strategy = command.blueprint, command.strategy
            asked, rows = rows, self._affordable(rows, kind)
            left = f"; {len(asked) - len(rows)} more are beyond the budget" if asked != rows else ""
            if not rows:
                return self._no("guard", self._too_dear(asked[0], kind))
        reason = command.reason or "asked for over the bus"
        result = self._gardener.obey(
            [Command(event, row, reason, "bus", kind, strategy) for row in rows]
        )
        return self._outcome(event, rows, result, left)

    def _outcome(
        self, event: str, rows: list[int], result: StepResult, left: str
    ) -> Applied | Refused:
        taken = {
            row
            for row, edge in zip(
                result.rows.tolist(), result.edge[result.rows].tolist(), strict=True
            )
            if edge >= 0
            and (by := self._lifecycle.edges[edge].event) is not None
            and by.name == event
        }
        done = [row for row in rows if row in taken]
        self.look()
        if done:
            return self.done(done, f"{len(done)} of {len(rows)} seeds{left}")
        why = {row: str(refusal.name).lower() for row, _, refusal in result.unused_events}
        row = rows[0]
        reason = why.get(row, "there was no room")
        state = self._names[int(result.before[row])]
        detail = f"{event} was not taken by {self._garden.address(row)} in {state}: {reason}"
        return self._no("guard", detail, state=state)

    def _affordable(self, rows: list[int], kind: str | None) -> list[int]:
        budget = self._gardener.config.budget
        if budget is None:
            return rows
        left, found = budget - self._gardener.parameters(), []  # rivals share what is promised
        for row in rows:
            left -= self._price(row, kind)
            if left < 0:
                break
            found.append(row)
        return found

    def _price(self, row: int, kind: str | None) -> int:
        site = self._garden.site_of(row)
        return int(site.pool(kind or site.kinds[0]).kind.cost().parameters)

    def _too_dear(self, row: int, kind: str | None) -> str:
        gardener = self._gardener
        now, budget = gardener.parameters(), gardener.config.budget
        return (
            f"a seed costs {self._price(row, kind)} parameters, and {now} of the budget of {budget} "
            "are taken: start the run with a larger --budget"
        )

    def _set_limit(self, name: str, value: float) -> Applied:
        gardener = self._gardener
        before = gardener.limits[name]
        gardener.limits.override(name, self._typed(name, value))
        gardener.journal.write("limit", name=name, value=gardener.limits[name])
        return self.done(detail=f"{name} was {before} and is {gardener.limits[name]}")

    def _set_strategy(self, rows: list[int], strategy: str) -> Applied:
        gardener, state = self._gardener, self._garden.state
        gardener.holdings.strategies.update(dict.fromkeys(rows, strategy))
        holds = [row for row in rows if int(state["blueprint_slot"][row]) >= 0]
        blends = mask_in(state, "plane", "blend")
        moving = [row for row in holds if bool(blends[row])]
        waiting = [row for row in holds if row not in set(moving)]
        if waiting:
            state.update(waiting, {"grafting_strategy": strategy_number(strategy)})
        detail = f"{len(moving)} seeds keep the ramp that they are on" if moving else ""
        return self.done([row for row in rows if row not in set(moving)], detail)

    def _status(self, what: str, rows: list[int] | None) -> Status | Refused:
        gardener, clock = self._gardener, self._gardener.clock
        detail = ""
        if what == "limits":
            detail = json.dumps(gardener.limits.as_dict())
        elif what == "seeds":
            seeds = range(len(self._garden.state)) if rows is None else rows
            detail = json.dumps([self._seed(row) for row in seeds])
        if len(detail) > LONGEST_DETAIL:
            return self._no("out_of_range", f"{len(detail)} characters to tell; an answer holds "
                            f"{LONGEST_DETAIL}: ask for a site")  # fmt: skip
        return Status(
            run=self._run,
            epoch=clock.epoch,
            step=clock.step,
            paused=self.paused,
            sites=tuple(self._site(path) for path in self._garden.sites),
            detail=detail,
        )

    def _site(self, path: str) -> types.SiteStatus:
        site = self._garden.sites[path]
        codes = self._garden.state.codes[site.first_row : site.first_row + site.n_seeds].tolist()
        counts = Counter(self._names[code] for code in codes)
        return types.SiteStatus(
            path=path or ".",
            placement=site.placement,
            seeds=site.n_seeds,
            states=tuple(
                types.StateCount(state=state, seeds=seeds)
                for state, seeds in sorted(counts.items())
            ),
            kinds=tuple(site.kinds),
            embargoed=self._gardener.embargoed(path),
        )

    def _seed(self, row: int) -> dict[str, Any]:
        state, address = self._garden.state, self._garden.address(row)
        return {
            "site": address.site or ".",
            "slot": address.slot,
            "generation": address.generation,
            "state": self._names[int(state.codes[row])],
            "epochs": int(state.epochs[row]),
            "alpha": round(float(state["alpha"][row]), 6),
        }

    def _address(self, row: int) -> types.Address:
        found = self._garden.address(row)
        return types.Address(site=found.site or ".", slot=found.slot, generation=found.generation)

    # ------------------------------------------------------------------ refusals

    def _closed(self, command: types.Command) -> Refused | None:
        """Where nothing germinates any more, this is why, and not the seed's state."""
        rows = self._mask.rows(command.target) if isinstance(command, types.Germinate) else []
        if isinstance(rows, Refused):
            return None
        initial = self._lifecycle.initial.name
        for row in (row for row in rows if self._mask.states[row] == initial):
            path = self._garden.address(row).site
            if self._gardener.embargoed(path):
                times = self._gardener.config.max_rewinds
                return self._no("guard", f"site {path or '.'!r} was rewound {times} times, so "
                                "nothing germinates there any more", state=initial)  # fmt: skip
            if self._gardener.closed(path):
                return self._no("guard", f"{TOO_LATE}, so nothing germinates any more",
                                state=initial)  # fmt: skip
        return None

    def _blueprint(self, rows: Iterable[int], name: str | None) -> Refused | None:
        if name is None:
            return None
        for site in {id(s): s for s in map(self._garden.site_of, rows)}.values():
            if name not in site.kinds:
                return self._unknown(f"blueprint of site {site.path!r}", name, site.kinds)
        return None

    def _strategy(self, name: str) -> Refused | None:
        try:
            strategy_number(name)
        except StrategyError:
            return self._unknown("grafting strategy", name, known_strategies())
        return None

    def _limit(self, name: str, value: float) -> Refused | None:
        fields = self._lifecycle.limit_fields
        if name not in fields:
            return self._unknown("limit", name, tuple(fields))
        try:
            LimitTable(self._lifecycle).override(name, self._typed(name, value))
        except ValueError as error:
            return self._no("out_of_range", str(error))
        return None

    def _typed(self, name: str, value: float) -> float | int:
        whole = "int" in self._lifecycle.limit_fields[name].dtype and value == int(value)
        return int(value) if whole else value

    def _no_snapshot(self, state: str) -> Refused:
        detail = (
            "there is no checkpoint from before its graft to go back to: nothing of it has touched "
            "the host, or what it grew was kept; cancel ends it"
        )
        return self._no("no_checkpoint", detail, state=state)

    def _unknown(self, what: str, name: str, known: Sequence[str]) -> Refused:
        near = tuple(get_close_matches(name, known, n=3, cutoff=0.4))
        guess = f"did you mean {near[0]!r}?" if near else f"there are {quoted(known, 16)}"
        return self._no("unknown_name", f"there is no {what} {name[:64]!r}; {guess}", near=near)

    def _no(self, reason: Any, detail: str, **fields: Any) -> Refused:
        return Refused(run=self._run, reason=reason, detail=detail[:8192], **fields)


class _Named(Sequence[str]):
    """The names of states, looked up when one is asked for: a list of 10,000 would take 0.5 ms."""

    def __init__(self, codes: NDArray[Any], names: tuple[str, ...]) -> None:
        self._codes, self._names = codes, names

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self._names[code] for code in self._codes[at]]
        return self._names[int(self._codes[at])]

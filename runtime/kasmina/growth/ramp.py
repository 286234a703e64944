"""Alpha: moved up along its strategy while a seed blends, and down while it withdraws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from kasmina.errors import KasminaError
from kasmina.grafting import Ramp, StrategySelector, move, reads
from kasmina.growth.choosing import Choices
from kasmina.growth.journal import Journal
from kasmina.growth.ledger import Ledger
from kasmina.growth.planes import mask_in, rows_in, rows_of
from kasmina.sites import Garden


class Drift:
    """How far weights are from their moving average m: `|w - m| / |m|`, `m <- 0.9 m + 0.1 w`.

    Args:
        weights: whose; a copy of them is kept while someone asks.
    """

    KEPT = 0.9

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self._weights = list(weights)
        self._average: list[Tensor] = []

    @torch.no_grad()
    def measure(self) -> float:
        """The drift at this step; 0 at the first."""
        if not self._average:
            self._average = [w.detach().clone() for w in self._weights]
        apart = [w - m for w, m in zip(self._weights, self._average, strict=True)]
        size = float(get_total_norm(self._average)) if apart else 0.0
        drift = float(get_total_norm(apart)) / size if size else 0.0
        for mean, way in zip(self._average, apart, strict=True):
            mean.add_(way, alpha=1 - self.KEPT)
        return drift

    def rest(self) -> None:
        """Nobody asks any more."""
        self._average = []

    def state_dict(self) -> dict[str, Any]:
        """The moving average."""
        return {"average": [m.clone() for m in self._average]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        held = zip(state["average"], self._weights, strict=False)
        self._average = [m.to(w, copy=True) for m, w in held]


class Ramps:
    """Moves alpha once an optimizer step, for all seeds at once.

    A ramp can be changed on its way, between two steps: `pause`, `resume` and `retarget`. To
    abort a graft give its seed the command "cancel": it is withdrawn from the alpha that it has.

    Args:
        garden: whose state tensor holds `alpha`, `ramp_steps` and `grafting_strategy`.
        ledger: gathers the path integral while alpha moves up.
        length: optimizer steps of a full ramp, 1 or more.
        model: whose weights' drift a strategy may read; those of blueprints do not count.
        journal: where changes of a ramp are written, and choices of strategies.
        selector: chooses the strategy "learned"; among all by default.
    """

    def __init__(
        self,
        garden: Garden,
        ledger: Ledger,
        length: int,
        model: nn.Module,
        journal: Journal,
        selector: StrategySelector | None = None,
    ) -> None:
        self._garden, self._ledger, self._length, self._journal = garden, ledger, length, journal
        self.choices = Choices(garden, journal, selector or StrategySelector())
        own = set(map(id, garden.parameters()))
        self._drift = Drift(p for p in model.parameters() if id(p) not in own)
        seeds = len(garden.state)
        self._start, self._target = torch.zeros(seeds), torch.ones(seeds)
        self._lengths = torch.full((seeds,), length)
        self._paused = torch.zeros(seeds, dtype=torch.bool)
        self._loss = self._trend = self._stability = float("nan")

    def start(self, rows: Tensor, steps: int | None = None) -> None:
        """The rows begin to graft: alpha is 0 and nothing has been gained yet.

        Args:
            rows: of the state tensor.
            steps: optimizer steps until alpha is 1; a full ramp's by default.
        """
        self._garden.state.update(rows, {"alpha": 0.0})
        self._aim(rows, 1.0, self._length if steps is None else steps)
        self._ledger.integral.start(rows)
        self.choices.choose(rows.tolist(), self._loss)

    def turn(self, rows: Tensor, left: float = math.inf) -> None:
        """The rows have just moved; those that withdraw begin their way down.

        Args:
            rows: of the state tensor.
            left: optimizer steps that the run still has; a ramp down ends within them, if any.
        """
        leaving = rows[mask_in(self._garden.state, "plane", "withdraw")[rows].cpu()]
        if len(leaving):
            self._aim(leaving, 0.0, int(left) if 1 <= left < self._length else self._length)

    def tick(self, validation_loss: float) -> None:
        """An epoch has ended, with this validation loss in nats; before the lifecycle's step."""
        change = validation_loss - self._loss
        self._trend = change if math.isnan(self._trend) else 0.5 * (self._trend + change)
        self._loss, self._stability = validation_loss, self._ledger.stability()
        self.choices.settle()

    def move(self, gradient: Tensor | None) -> None:
        """One optimizer step was made.

        Args:
            gradient: dL/dalpha before it, float32 `[N]`; None where no seed blends.

        Raises:
            StrategyError: a strategy gave no legal alpha; nothing was moved.
        """
        state = self._garden.state
        blending, leaving = rows_in(state, "plane", "blend"), rows_in(state, "plane", "withdraw")
        blending = blending[~self._paused[blending]]
        leaving = leaving[(state["alpha"][leaving] > 0).cpu()]
        found = []  # all of them before the first is written: a strategy may fail
        if gradient is not None and len(blending):
            found.append((blending, *self._next(blending, self._measured(blending))))
        if len(leaving):
            found.append((leaving, *self._next(leaving, {})))
        for rows, alpha, steps in found:
            before = state["alpha"][rows]
            with state.commit():
                state["alpha"][rows], state["ramp_steps"][rows] = alpha, steps
            if rows is blending and gradient is not None:
                step = alpha - before
                went = rows_of(step)  # who waits, or has arrived, gathers no evidence
                moved = blending[went]
                self._ledger.integral.add(moved, gradient[moved], step[went])

    def steps_left(self) -> int:
        """Optimizer steps until every seed that withdraws has left."""
        state = self._garden.state
        leaving = rows_in(state, "plane", "withdraw")
        leaving = leaving[(state["alpha"][leaving] > 0).cpu()]
        left = self._lengths[leaving] - state["ramp_steps"].cpu()[leaving]
        return int(left.max()) if len(left) else 0

    def pause(self, rows: Sequence[int]) -> None:
        """Leave alpha of these ramps as it is until `resume`; a paused one stays so.

        Args:
            rows: of the state tensor; seeds that blend.

        Raises:
            KasminaError: a row is none, or its seed does not blend; nothing was changed.
        """
        at = self._ramps(rows, "pause")
        self._paused[at] = True
        self._tell(at, "pause")

    def resume(self, rows: Sequence[int]) -> None:
        """Let paused ramps go on.

        Args:
            rows: of the state tensor; seeds that blend.

        Raises:
            KasminaError: a row is none, or its ramp is not paused; nothing was changed.
        """
        at = self._ramps(rows, "resume")
        for row in at:
            if not self._paused[row]:
                raise KasminaError(
                    f"resume: the ramp of {self._garden.address(row)} is not paused; a pause ends with "
                    "resume(), with retarget() and with the ramp"
                )
        self._paused[at] = False
        self._tell(at, "resume")

    def retarget(self, rows: Sequence[int], target: float = 1.0, steps: int | None = None) -> None:
        """Give ramps another end, from the alpha that they have.

        Args:
            rows: of the state tensor; seeds that blend.
            target: alpha at the end, in [0, 1]. The built-in lifecycle waits for 1, so another
                one must be followed by a further retarget before the state's time is out.
            steps: optimizer steps until then, 1 or more; a full ramp's by default.

        Raises:
            KasminaError: a row is none, its seed does not blend, or a value is out of its range;
                nothing was changed.
        """
        steps = self._length if steps is None else steps
        if not (_is_number(target, Real) and 0 <= target <= 1) or not (
            _is_number(steps, Integral) and steps >= 1
        ):
            raise KasminaError(
                f"retarget(target={target!r}, steps={steps!r}): legal: a target in [0, 1] and a whole "
                "number of steps, 1 or more"
            )
        at = self._ramps(rows, "retarget")
        self._aim(torch.tensor(at, dtype=torch.int64), target, steps)
        self._tell(at, "retarget", target=float(target), steps=int(steps))

    def state_dict(self) -> dict[str, Any]:
        """Where every ramp began and shall end, and what strategies were told."""
        return {
            "start": self._start.clone(),
            "target": self._target.clone(),
            "lengths": self._lengths.clone(),
            "paused": self._paused.clone(),
            "measured": (self._loss, self._trend, self._stability),
            "drift": self._drift.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._start, self._target = state["start"].clone(), state["target"].clone()
        self._lengths, self._paused = state["lengths"].clone(), state["paused"].clone()
        self._loss, self._trend, self._stability = state["measured"]
        self._drift.load_state_dict(state["drift"])

    def _aim(self, rows: Tensor, target: float, steps: int) -> None:
        """Begin a ramp from the alpha of now."""
        state, at = self._garden.state, rows.cpu()
        state.update(rows, {"ramp_steps": 0})
        self._start[at] = state["alpha"][rows].cpu()
        self._target[at], self._lengths[at], self._paused[at] = target, steps, False

    def _next(self, rows: Tensor, measured: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Alpha of the rows and the steps of their ramps after one more."""
        state, at = self._garden.state, rows.cpu()
        now, steps = state["alpha"][rows], state["ramp_steps"][rows] + 1

        def of(values: Tensor) -> Tensor:
            return values[at].to(now.device)

        ramp = Ramp(steps, of(self._lengths), now, **measured)
        numbers = state["grafting_strategy"][rows]
        who: Callable[[int], str] = lambda at: str(self._garden.address(int(rows[at])))
        alpha = move(numbers, ramp, of(self._start), of(self._target), who)
        if not bool((alpha >= 0).all()):  # NaN: `update` refuses it, and tells of the row
            state.update(rows, {"alpha": alpha})
        return alpha, steps

    def _measured(self, rows: Tensor) -> dict[str, Tensor]:
        """What the rows' strategies want to know; NaN where it is not known yet."""
        like = self._garden.state["alpha"][rows]
        wanted = reads(self._garden.state["grafting_strategy"][rows])
        found = {
            name: torch.full_like(like, value)
            for name, value in (("stability", self._stability), ("trend", self._trend))
            if name in wanted
        }
        if "score" in wanted:
            score = self._ledger.integral.gain()[rows.cpu()]
            found["score"] = torch.where(score.isinf(), torch.nan, score).to(like)
        if "drift" in wanted:
            found["drift"] = torch.full_like(like, self._drift.measure())
        else:
            self._drift.rest()
        return found

    def _ramps(self, rows: Sequence[int], action: str) -> list[int]:
        """The rows, each once; raises `KasminaError` where one is none or its seed does not blend."""
        state = self._garden.state
        given = rows.tolist() if isinstance(rows, Tensor) else rows
        if not isinstance(given, Iterable) or not all(_is_number(row, Integral) for row in given):
            raise KasminaError(f"{action}: rows={rows!r}; legal: a list of rows, like [0, 2]")
        blends = mask_in(state, "plane", "blend").cpu()
        for row in given:
            if not 0 <= row < len(state):
                raise KasminaError(
                    f"{action}: row {row} is none of the state tensor's; legal: 0 to {len(state) - 1}"
                )
            if not blends[row]:
                raise KasminaError(
                    f"{action}: {self._garden.address(row)} is in {state.state(row).name} and has "
                    "no ramp; only a seed whose alpha moves up (plane blend) can be changed"
                )
        return list(dict.fromkeys(map(int, given)))

    def _tell(self, rows: Sequence[int], action: str, **fields: Any) -> None:
        """Log a change of ramps."""
        for row in rows:
            self._journal.write("ramp", of=row, action=action, **fields)


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)

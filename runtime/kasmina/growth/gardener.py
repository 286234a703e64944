"""The Gardener: one loop that lets a garden live while its host trains.

    telemetry -> gates fill the context -> the controller proposes commands -> step -> effects

The training loop stays the user's: `Gardener.step(loss)` takes the place of `optimizer.step()`, and
`Gardener.tick()` is called at an epoch's end. What happens to a seed follows from the attributes of
its state (plane, trains, blueprint) and from the effects of its edges, never from the names of
states, so an edited spec needs no edit here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from kasmina.errors import KasminaError
from kasmina.growth.aside import AsideTrainer
from kasmina.growth.contest import TOO_LATE, Contest
from kasmina.growth.controller import Command, Controller, Idle, Proposal
from kasmina.growth.divergence import Triggers
from kasmina.growth.effects import Effects
from kasmina.growth.ending import Ending
from kasmina.growth.flops import FlopMeter
from kasmina.growth.gates import Readings, gates_for
from kasmina.growth.holdings import Holdings
from kasmina.growth.journal import Journal
from kasmina.growth.judging import Judge
from kasmina.growth.ledger import Clock, Ledger
from kasmina.growth.observation import action_mask, busy, observe
from kasmina.growth.optimizer import check_holds
from kasmina.growth.planes import mask_in, planes_in_use
from kasmina.growth.ramp import Ramps
from kasmina.growth.rewind import Snapshot, Stateful
from kasmina.growth.stepping import Stepper, value_of
from kasmina.growth.trial import CANCEL, TOUCHING, Trial
from kasmina.growth.twin import Twin
from kasmina.growth.validation import Validate, Validation, Validator, refuse_nan
from kasmina.lifecycle import ContextTable, LimitTable, StepResult, is_at_rest, rest, step
from kasmina.observe.log import EventLog
from kasmina.sites import Garden, Recorder


@dataclass(frozen=True, slots=True)
class GardenerConfig:
    """Settings of the loop.

    Attributes:
        budget: parameters that the grown network may have in the end; None for no bound.
        epochs: planned epochs, after which no seed is under way: see `Gardener.conclude`; None if
            open.
        ramp_steps: optimizer steps of an alpha ramp.
        aside_rate: learning rate of the isolated training.
        aside_most: positions (tokens, pixels) of a batch that the isolated training reads at most.
        max_rewinds: rewinds of one site after which nothing germinates there any more.
        strategy: grafting strategy of a command that names none; "learned" lets the run find out.
        contest: epochs that candidates of several kinds learn before one of them is chosen.
        held_out_every: optimizer steps between two measurements of a ramp on validation data.
        twin_sample: every so many cohorts one is held against its true control, whatever the
            integrals say; 0 for none.
        twin_parameters: the largest network of which a control is trained.
        rent: nats of validation loss that a seed with as many parameters as the host must surely save
            in order to stay, less for fewer: see `growth.rent`.
        triggers: when a cohort counts as diverged and is taken back.
    """

    budget: int | None = None
    epochs: int | None = None
    ramp_steps: int = 60
    aside_rate: float = 1e-2
    aside_most: int = 512
    max_rewinds: int = 3
    strategy: str = "linear"
    contest: int = 8
    held_out_every: int = 10
    twin_sample: int = 4
    twin_parameters: int = 1_000_000
    rent: float = 0.001
    triggers: Triggers = field(default_factory=Triggers)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise KasminaError(f"GardenerConfig({name}={value}): it must be {least} or more")
        if not (0 < self.aside_rate < math.inf):
            raise KasminaError(
                f"GardenerConfig(aside_rate={self.aside_rate}): a learning rate must be above 0"
            )
        if not (0 <= self.rent < math.inf):
            raise KasminaError(
                f"GardenerConfig(rent={self.rent}): it is a finite number of nats, 0 or more; 0 asks "
                "for no rent"
            )


_LEAST = {
    **dict.fromkeys(("epochs", "ramp_steps", "aside_most", "contest", "held_out_every"), 1),
    **dict.fromkeys(("budget", "max_rewinds", "twin_sample", "twin_parameters"), 0),
}


class Gardener:
    """Lets the seeds of a morphed model live.

    Args:
        model: what `kasmina.morph` returned.
        optimizer: holds all of `model.parameters()`; its state survives growth.
        validate: returns the mean validation loss as a 0-d tensor, or (loss, metric).
        controller: decides at each tick; None never germinates by itself.
        config: see `GardenerConfig`.
        limits: overrides of the spec's limits by name.
        log: where everything is written; None keeps no log.
        stateful: what else a rewind must bring back, by name: data cursor, scheduler.
        scaler: the gradient scaler by which `loss` was scaled before its backward pass. `step` then
            unscales (also dL/dalpha), steps and updates it, and a rewind brings it back.
        meter: adds up what growing costs.
        twin: trains the true control of a cohort; without it only integrals judge.
        reduce_context: called on the context before each tick's step, so that many ranks can agree on
            one (e.g. an all-reduce of every field); returns the context to step with.

    Raises:
        StaleOptimizer: the optimizer misses parameters of the model.
        KasminaError: the spec asks for a context field, effect or attribute that nothing fills.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        validate: Validate,
        controller: Controller | None = None,
        config: GardenerConfig = GardenerConfig(),
        limits: Mapping[str, float] | None = None,
        log: EventLog | None = None,
        stateful: Mapping[str, Stateful] | None = None,
        meter: FlopMeter | None = None,
        twin: Twin | None = None,
        scaler: GradScaler | None = None,
        reduce_context: Callable[[ContextTable], ContextTable] | None = None,
    ) -> None:
        self.garden = Garden.of(model)
        self.model, self.optimizer, self.config = model, optimizer, config
        self.controller = controller or Idle()
        self.meter = meter or FlopMeter()
        self.clock, self.validation = Clock(), Validation(float("nan"), float("nan"))
        state = self.garden.state
        self.ledger = Ledger(len(state))
        self.queue: deque[Command] = deque()
        self.limits = LimitTable(state.lifecycle)
        for name, value in (limits or {}).items():
            self.limits.override(name, value)
        self.journal = Journal(log, self.garden, self.clock)
        self.ramps = Ramps(self.garden, self.ledger, config.ramp_steps, model, self.journal)
        self._agree = reduce_context
        self._one_number = self._validated = False
        self.validator = Validator(model, validate)
        self._gates = gates_for(state.lifecycle.context_fields)
        check_holds(optimizer, dict(model.named_parameters()))
        self._aside = AsideTrainer(self.garden, config.aside_rate, self.meter, config.aside_most)
        self._holdings = Holdings(
            self.garden, optimizer, self._aside, self.journal, config.strategy
        )
        self._contest = Contest(self.garden, self.journal, config.contest)
        self._recorders = {path: Recorder(site) for path, site in self.garden.sites.items()}
        self.judge = Judge(self, twin)
        self.moves = 0  # steps of the lifecycle: where it is the same, no seed has moved
        self.trial = Trial(self, config.triggers)
        self.ending = Ending(self)
        self._stepper = Stepper(optimizer, scaler)
        held = {} if scaler is None else {"kasmina.scaler": scaler}
        self._effects = Effects(self, {**held, **(stateful or {})})
        self._refresh()

    def request(self, command: Command) -> None:
        """Queue a command for the next tick; safe to call from any thread.

        Raises:
            KasminaError: the command names a seed, an event, a kind or a strategy that is not there;
                nothing is queued.
        """
        self._holdings.refuse(command)
        self.queue.append(command)

    def obey(self, commands: Sequence[Command]) -> StepResult:
        """Carry out commands at once, between two steps; what no edge took stands in the result."""
        state = self.garden.state
        context = ContextTable(len(state), lifecycle=state.lifecycle)
        result = self._advance(commands, context, tick=False)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def step(self, loss: Tensor) -> bool:
        """Call after `loss.backward()` in the place of `optimizer.step()`.

        Steps the optimizer, trains shadow seeds aside on what the batch left at their sites, moves
        every ramp by one step, and rewinds at once where a cohort's graft diverges.

        Args:
            loss: the batch's loss, one real number, before any scaling; only its value is read.

        Returns:
            Whether the step counts; False where it was rewound, or skipped by the scaler, so that a
            scheduler must not be stepped: `if gardener.step(loss): scheduler.step()`.

        Raises:
            NonFiniteLoss: the loss is not finite and there is no cohort to take back.
            StaleOptimizer: the optimizer does not hold a grown parameter any more.
            KasminaError: the loss is no real number, or nothing has a gradient.
        """
        value = value_of(loss)
        if math.isfinite(value):
            self._holdings.refuse_unlearned()
        scale = self._stepper.prepare()
        if self.trial.diverges(value, self._stepper.may_overflow):
            self._stepper.abandon()
            return False
        step = self.clock.step
        gradient = self.garden.alpha_gradient() / scale if "blend" in self._planes else None
        self._holdings.check(self.optimizer)
        moved = self._stepper.step()
        self.clock.step += 1
        self.ledger.add_loss(value)
        if not moved:
            self._refresh()  # forgets the gradient that overflowed
            return False
        if "shadow" in self._planes:
            self._aside.step()
        if gradient is not None or "withdraw" in self._planes:
            self.ramps.move(gradient)
            if "withdraw" in self._planes:
                self._holdings.release()
                self._refresh()
            else:
                self.garden.refresh()  # alpha alone has changed
            if "blend" in self._planes and self.clock.step % self.config.held_out_every == 0:
                self.judge.measure()
        if not self._planes.isdisjoint(TOUCHING):
            self.trial.stop_broken()
        return self.clock.step > step

    def tick(self) -> Validation:
        """Call at an epoch's end; returns the epoch's validation.

        Measures, asks the controller, steps the lifecycle and carries out the effects.
        """
        self.clock.epoch += 1
        self.validation = self._validate()
        self.ramps.tick(self.validation.loss)
        if "blend" in self._planes:
            self.judge.measure()
        self.judge.reach_verdicts()
        context = None if self._agree is None and is_at_rest(self.garden.state) else self._context()
        commands = [*self._drain(), *self.trial.worse(), *self._propose().commands]
        if context is None and commands:
            context = self._context()
        self.epoch_loss = self.ledger.train_loss
        self.ledger.end_epoch()  # before the effects: a snapshot is of the epoch's very end
        if context is None:
            self._rest()
        else:
            self._advance(commands, context, tick=True)
        if self.ending.decides():
            self.ending.conclude()
        if "blend" in self._planes:
            self.judge.measure()  # where a ramp begins
        return self.validation

    def tick_again(self) -> None:
        """Tick the lifecycle on the evidence that there is: nothing was trained since `tick`."""
        self.judge.reach_verdicts()
        self._advance([], self._context(), tick=True)

    def conclude(self) -> int:
        """End the run's growth, between two steps: every seed under way is kept or withdrawn.

        Where `GardenerConfig.epochs` says how long the run is, `tick` does so by itself at the last
        tick that leaves a quarter of a ramp; call this where the end comes otherwise. Seeds that the
        gate keeps on the evidence that there is are kept; the others are cancelled, and what has
        touched the host leaves along a ramp. Nothing germinates any more.

        Returns:
            Optimizer steps that are still to be made, until every ramp down has ended; 0 for none.
        """
        self.ending.called = True
        if busy(self.garden):
            self.validation = self._validate()
            self.ending.conclude()
        return self.ramps.steps_left()

    def parameters(self, *, promised: bool = False) -> int:
        """Parameters of the network that `fold` would give now.

        Args:
            promised: also count seeds that are still on their way, as if all were kept.
        """
        return self.garden.parameters_kept(promised=promised)

    def stateful(self) -> dict[str, Stateful]:
        """Everything of the Gardener's own that decides how the run goes on."""
        return {
            "kasmina.clock": self.clock,
            "kasmina.ledger": self.ledger,
            "kasmina.ramps": self.ramps,
            "kasmina.judge": self.judge,
            "kasmina.detector": self.trial.detector,
            "kasmina.aside": self._aside,
            "kasmina.controller": self.controller,
            **self._holdings.stateful(),
        }

    def resumable(self) -> dict[str, Stateful]:
        """What a rewind brings back besides model and optimizer, and then what it must not."""
        return {
            **self._effects.stateful,
            "kasmina.effects": self._effects,
            "kasmina.choices": self.ramps.choices,
            "kasmina.meter": self.meter,
            "kasmina.gardener": self,  # the last: it takes over what the others have loaded
        }

    def snapshot(self, number: int) -> Snapshot | None:
        """The snapshot that a cohort would be rewound to; None once it is not needed any more."""
        return self._effects.snapshot(number)

    def rewindable(self) -> dict[str, Stateful]:
        """What a rewind brings back besides model and optimizer."""
        return self._effects.stateful

    def leave_out(self, rows: Tensor) -> None:
        """Take seeds out as if they had never been germinated: for controls."""
        state = self.garden.state
        state.move(rows, state.lifecycle.initial)
        self._holdings.release()
        self._refresh()

    @property
    def can_rewind(self) -> bool:
        """Whether there is a snapshot to return to."""
        return self._effects.rewindable()

    @property
    def judging(self) -> bool:
        """Whether a seed is on trial, or may be soon: then parts of the validation loss count."""
        return not self._one_number and ("shadow" in self._planes or self.trial.is_on)

    @contextmanager
    def one_number(self) -> Iterator[None]:
        """Inside, what is measured is asked for the mean of the validation loss alone."""
        self._one_number = True
        try:
            yield
        finally:
            self._one_number = False

    @property
    def milestones(self) -> int:
        """How often a cohort has begun to graft or was taken back."""
        return self._effects.milestones

    @property
    def strategies(self) -> dict[int, str]:
        """Grafting strategies by row, for commands that name none."""
        return self._holdings.strategies

    def embargoed(self, site: str) -> bool:
        """Whether the site was rewound so often that nothing germinates there any more."""
        return self._effects.embargoed(site)

    def closed(self, site: str) -> bool:
        """Whether nothing germinates at the site: it is embargoed, or the run ends too soon."""
        return self.embargoed(site) or self.ending.forbids_germination()

    def saved(self) -> Tensor:
        """Bool `[N]`: seeds on trial whose cohort's snapshot is still there to return to."""
        saved = torch.zeros(len(self.garden.state), dtype=torch.bool)
        rows = self.trial.rows().cpu()
        numbers = self.garden.state["checkpoint_id"].cpu()[rows].tolist()
        saved[rows] = torch.tensor(
            [self.snapshot(n) is not None for n in numbers], dtype=torch.bool
        )
        return saved

    def is_blending(self, row: int) -> bool:
        """Whether the seed is on a ramp upwards."""
        return bool(mask_in(self.garden.state, "plane", "blend")[row])

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs of the loop itself, between two steps."""
        return {
            "validation": (self.validation.loss, self.validation.metric),
            "queue": [asdict(command) for command in self.queue],
            "limits": self.limits.as_dict(),
            "concluded": self.ending.called,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.validation = Validation(*state["validation"])
        self.queue = deque(Command(**command) for command in state["queue"])
        self.ending.called = state["concluded"]
        self._validated = not math.isnan(self.validation.loss)
        self.moves += 1
        for name, value in state["limits"].items():
            self.limits.override(name, value)
        self._refresh()

    def loss(self) -> float:
        """The validation loss of the model as it stands, in nats; its cost is counted."""
        with self.one_number():
            return self.measure().loss

    def measure(self, *, first: bool = False) -> Validation:
        """One validation pass of the model as it stands; its cost is counted.

        Args:
            first: make sure that an example passes the sites.
        """
        with self.meter.forward(("validate", self.garden.signature()), FlopMeter.EVALUATE):
            return self.validator.first() if first else self.validator.measure()

    def _validate(self) -> Validation:
        """Record what passes the sites where someone will read it, else only measure."""
        first = not self._validated
        if "shadow" not in self._planes and not self._compares_sites():
            found = self.measure(first=first)
        else:
            key = ("record", self.garden.signature())
            with self.meter.forward(key, FlopMeter.EVALUATE):  # the backward pass is in it
                found = self.validator.record(self._recorders)
        if first:
            refuse_nan(found)
            self._validated = True
        return found

    def _compares_sites(self) -> bool:
        """Whether the controller may ask now which site is the narrowest."""
        wants = getattr(self.controller, "wants_scores", lambda epoch, epochs: True)
        if len(self.garden.sites) == 1 or busy(self.garden):
            return False
        return bool(wants(self.clock.epoch, self.config.epochs))

    def _context(self) -> ContextTable:
        learned = self._aside.judge(self.validation)
        on_trial, late = len(self.trial.rows()), self.ending.forbids_grafts()
        standing = self._contest.standing(learned, on_trial, late=late)
        readings = Readings(
            state=self.garden.state,
            validation_loss=self.validation.loss,
            stability=self.ledger.stability(),
            learned=self._contest.in_step(learned, standing),
            score=self.judge.score(),
            improvement=self.judge.improvement(),
            standing=standing,
        )
        context = ContextTable(len(self.garden.state), lifecycle=self.garden.state.lifecycle)
        for name, measure in self._gates.items():
            context.set(slice(None), name, measure(readings))
        return context if self._agree is None else self._agree(context)

    def _propose(self) -> Proposal:
        seen = observe(
            self.garden,
            self.clock,
            self.ledger,
            self.validation,
            budget=self.config.budget,
            epochs=self.config.epochs,
            parameters=self.parameters(promised=True),
            rewinds=self._effects.rewinds,
            embargoed=self.embargoed,
        )
        mask = action_mask(self.garden, self.closed)
        proposal = self.controller.propose(seen, mask)
        self._refuse_illegal(proposal, mask)
        self.journal.decision(seen, int(mask.sum()), proposal, self.controller.name)
        return proposal

    def _refuse_illegal(self, proposal: Proposal, mask: NDArray[np.bool_]) -> None:
        lifecycle = self.garden.state.lifecycle
        for command in proposal.commands:
            if not mask[command.row, lifecycle.event(command.event)]:
                why = f": {TOO_LATE}" if self.ending.forbids_germination() else ""
                raise KasminaError(
                    f"controller '{self.controller.name}' proposed '{command.event}' for "
                    f"{self.garden.address(command.row)} in state "
                    f"{self.garden.state.state(command.row).name}, which the action mask forbids"
                    f"{why}"
                )

    def _drain(self) -> Iterator[Command]:
        while self.queue:
            yield self.queue.popleft()

    def _advance(
        self, commands: Sequence[Command], context: ContextTable, *, tick: bool
    ) -> StepResult:
        """One step of the lifecycle and all that follows from it."""
        state = self.garden.state
        events = torch.zeros(len(state), dtype=torch.int32)
        for command in commands:
            self.journal.command(command)
            events[command.row] |= 1 << state.lifecycle.event(command.event)
        self.journal.inputs(events, context, tick)
        result = step(state, events, context, self.limits, tick)
        reasons = {**self._contest.reasons, **{c.row: c.reason for c in commands}}
        self.journal.result(result, reasons)
        self._holdings.bind(commands, result)
        self.ramps.turn(result.rows, self.ending.left())
        self._holdings.release()
        refused = self._holdings.allocate()
        self._effects.apply(result)
        self._holdings.release()
        if refused:
            reason = "there is no memory for its blueprint"
            commands = [Command(CANCEL, row, reason, "detector") for row in refused]
            self._advance(commands, context, tick=False)
        self._effects.forget()
        self._refresh()
        self.moves += 1
        return result

    def _rest(self) -> None:
        """A tick in which no seed can move, so that nothing follows from it."""
        self.journal.rest()
        rest(self.garden.state)
        if self.garden.refresh():  # somebody else has written
            self._refresh()
        self.moves += 1

    def _refresh(self) -> None:
        """Let the sites, and this loop, know what there is to do until the next step."""
        self.garden.refresh()
        self._planes = planes_in_use(self.garden.state)
        self.trial.refresh()

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
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from kasmina.growth.advancing import Advancing
from kasmina.growth.aside import AsideTrainer
from kasmina.growth.claim import hold, refuse_second
from kasmina.growth.config import GardenerConfig
from kasmina.growth.contest import Contest
from kasmina.growth.controller import Command, Controller, Idle
from kasmina.growth.deciding import propose
from kasmina.growth.effects import Effects
from kasmina.growth.ending import Ending
from kasmina.growth.flops import FlopMeter
from kasmina.growth.holdings import Holdings
from kasmina.growth.journal import Journal
from kasmina.growth.judging import Judge
from kasmina.growth.ledger import Clock, Ledger
from kasmina.growth.measuring import Measuring
from kasmina.growth.observation import busy
from kasmina.growth.optimizer import check_holds
from kasmina.growth.ramp import Ramps
from kasmina.growth.rewind import Stateful
from kasmina.growth.stepping import Stepper, value_of
from kasmina.growth.trial import TOUCHING, Trial
from kasmina.growth.twin import Twin
from kasmina.growth.validation import Validate, Validation
from kasmina.lifecycle import ContextTable, LimitTable, StepResult, is_at_rest
from kasmina.observe.log import EventLog
from kasmina.sites import Garden
from kasmina.sites.morphing import refuse_default_device


class Gardener:
    """Lets the seeds of a morphed model live; they have one Gardener at a time, see `close`.

    Args:
        model: what `kasmina.morph` returned.
        optimizer: holds all of `model.parameters()`; its state survives growth.
        validate: returns the losses of all validation examples as a 1-d tensor, or their mean as a
            0-d one, or (losses, metric). Of the mean alone nobody can tell how far the data are a
            sample: intervals then leave that out and are too narrow, so prefer the losses.
        controller: decides at each tick; None never germinates by itself.
        config: see `GardenerConfig`; None takes its defaults.
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
        KasminaError: the spec asks for a context field, effect or attribute that nothing fills, or
            the seeds have a Gardener already.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        validate: Validate,
        controller: Controller | None = None,
        config: GardenerConfig | None = None,
        limits: Mapping[str, float] | None = None,
        log: EventLog | None = None,
        stateful: Mapping[str, Stateful] | None = None,
        meter: FlopMeter | None = None,
        twin: Twin | None = None,
        scaler: GradScaler | None = None,
        reduce_context: Callable[[ContextTable], ContextTable] | None = None,
    ) -> None:
        self.garden = Garden.of(model)
        refuse_second(self.garden)
        refuse_default_device()
        self.model, self.optimizer = model, optimizer
        self.config = config = config or GardenerConfig()
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
        self.measuring = Measuring(self, validate, reduce_context)
        check_holds(optimizer, dict(model.named_parameters()))
        self.aside = AsideTrainer(self.garden, config.aside_rate, self.meter, config.aside_most)
        self.holdings = Holdings(self.garden, optimizer, self.aside, self.journal, config.strategy)
        self.contest = Contest(self.garden, self.journal, config.contest)
        self.judge = Judge(self, twin)
        self.trial = Trial(self, config.triggers)
        self._advancing = Advancing(self)
        self.ending = Ending(self)
        self._stepper = Stepper(optimizer, scaler)
        held = {} if scaler is None else {"kasmina.scaler": scaler}
        self.effects = Effects(self, {**held, **(stateful or {})})
        self.holdings.take_root(model)
        self._advancing.refresh()
        self._end = hold(self.garden, self, self.holdings.close)

    def close(self) -> None:
        """Let go of model and optimizer, so that another Gardener may have them.

        The seeds stay as they are, but their rows are kept apart no more: those that are under way
        must be trained by the next Gardener or folded. To end them first there is `conclude`.
        """
        self._end()

    def request(self, command: Command) -> None:
        """Queue a command for the next tick; safe to call from any thread.

        Raises:
            KasminaError: the command names a seed, an event, a kind or a strategy that is not there;
                nothing is queued.
        """
        self.holdings.refuse(command)
        self.queue.append(command)

    def obey(self, commands: Sequence[Command]) -> StepResult:
        """Carry out commands at once, between two steps; what no edge took stands in the result."""
        state = self.garden.state
        context = ContextTable(len(state), lifecycle=state.lifecycle)
        result = self._advancing.advance(commands, context, tick=False)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def step(self, loss: Tensor) -> bool:
        """Call after `loss.backward()` in the place of `optimizer.step()`.

        Steps the optimizer, trains shadow seeds aside on what the batch left at their sites (of
        gradients that are accumulated the last backward pass), moves every ramp by one step, and
        rewinds at once where a cohort's graft diverges.

        Args:
            loss: the batch's loss, one real number, before any scaling; only its value is read.

        Returns:
            Whether the step counts; False where it was rewound, or skipped by the scaler, so that a
            scheduler must not be stepped: `if gardener.step(loss): scheduler.step()`.

        Raises:
            NonFiniteLoss: the loss is not finite and there is no cohort to take back.
            StaleOptimizer: the optimizer does not hold a grown parameter any more.
            KasminaError: the loss is no real number, nothing has a gradient, or `close` was called.
        """
        value = value_of(loss)
        if math.isfinite(value):
            self.holdings.refuse_unlearned()
        scale = self._stepper.prepare()
        if self.trial.diverges(value, self._stepper.may_overflow):
            self._stepper.abandon()
            return False
        step = self.clock.step
        gradient = self.garden.alpha_gradient() / scale if "blend" in self.planes else None
        self.holdings.check(self.optimizer)
        moved = self._stepper.step()
        self.clock.step += 1
        self.ledger.add_loss(value)
        if not moved:
            self._advancing.refresh()  # forgets the gradient that overflowed
            return False
        if "shadow" in self.planes:
            self.aside.step()
        if gradient is not None or "withdraw" in self.planes:
            self._ramp(gradient)
        if not self.planes.isdisjoint(TOUCHING):
            self.trial.stop_broken()
        return self.clock.step > step

    def _ramp(self, gradient: Tensor | None) -> None:
        """Move every ramp by one step, and measure on validation data where that is due."""
        self.ramps.move(gradient)
        if "withdraw" in self.planes:
            self.holdings.release()
            self._advancing.refresh()
        else:
            self.garden.refresh()  # alpha alone has changed
        if "blend" in self.planes and self.clock.step % self.config.held_out_every == 0:
            self.judge.measure()

    def tick(self) -> Validation:
        """Call at an epoch's end; returns the epoch's validation.

        Measures, asks the controller, steps the lifecycle and carries out the effects.
        """
        self.holdings.take_root(self.model)
        self.validation = self.measuring.epoch()
        self.clock.epoch += 1
        self.ramps.tick(self.validation.loss)
        if "blend" in self.planes:
            self.judge.measure()
        self.judge.reach_verdicts()
        rests = self.measuring.agree is None and is_at_rest(self.garden.state)
        context = None if rests else self.measuring.context()
        commands = [*self._drain(), *self.trial.worse(), *propose(self).commands]
        if context is None and commands:
            context = self.measuring.context()
        self.epoch_loss = self.ledger.train_loss
        self.ledger.end_epoch()  # before the effects: a snapshot is of the epoch's very end
        if context is None:
            self._advancing.rest()
        else:
            self._advancing.advance(commands, context, tick=True)
        if self.ending.decides():
            self.ending.conclude()
        if "blend" in self.planes:
            self.judge.measure()  # where a ramp begins
        return self.validation

    def tick_again(self) -> None:
        """Tick the lifecycle on the evidence that there is: nothing was trained since `tick`."""
        self.judge.reach_verdicts()
        self._advancing.advance([], self.measuring.context(), tick=True)

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
            self.validation = self.measuring.epoch()
            self.ending.conclude()
        self._advancing.moves += 1  # what may be commanded has changed
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
            "kasmina.aside": self.aside,
            "kasmina.controller": self.controller,
            **self.holdings.stateful(),
        }

    def resumable(self) -> dict[str, Stateful]:
        """What a rewind brings back besides model and optimizer, and then what it must not."""
        return {
            **self.effects.stateful,
            "kasmina.effects": self.effects,
            "kasmina.choices": self.ramps.choices,
            "kasmina.meter": self.meter,
            "kasmina.gardener": self,  # the last: it takes over what the others have loaded
        }

    def leave_out(self, rows: Tensor) -> None:
        """Take seeds out as if they had never been germinated: for controls."""
        state = self.garden.state
        state.move(rows, state.lifecycle.initial)
        self.holdings.release()
        self._advancing.refresh()

    @property
    def judging(self) -> bool:
        """Whether a seed is on trial, or may be soon: then parts of the validation loss count."""
        return self.measuring.by_parts

    @property
    def planes(self) -> frozenset[str]:
        """The planes of all seeds that hold a blueprint."""
        return self._advancing.planes

    @property
    def moves(self) -> int:
        """Steps of the lifecycle so far: where it is the same, no seed has moved."""
        return self._advancing.moves

    @property
    def milestones(self) -> int:
        """How often a cohort has begun to graft or was taken back."""
        return self.effects.milestones

    def embargoed(self, site: str) -> bool:
        """Whether the site was rewound so often that nothing germinates there any more."""
        return self.effects.embargoed(site)

    def closed(self, site: str) -> bool:
        """Whether nothing germinates at the site: it is embargoed, or the run ends too soon."""
        return self.embargoed(site) or self.ending.forbids_germination()

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
        self.measuring.begun = not math.isnan(self.validation.loss)
        self._advancing.moves += 1
        for name, value in state["limits"].items():
            self.limits.override(name, value)
        self._advancing.refresh()

    def loss(self) -> float:
        """The validation loss of the model as it stands, in nats; its cost is counted."""
        with self.measuring.one_number():
            return self.measure().loss

    def measure(self) -> Validation:
        """One validation pass of the model as it stands; its cost is counted."""
        return self.measuring.measure()

    def _drain(self) -> Iterator[Command]:
        while self.queue:
            yield self.queue.popleft()

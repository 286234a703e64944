"""A grown run done again by hand, in plain PyTorch: the same passes by modules that torch has.

What trains for how long, and what is validated when, is read from the run's events. A candidate is
an nn.Module with an Adam of its own, a graft a sum with a factor before it. No lifecycle, no gate,
no log and nothing to return to: only the arithmetic. For runs whose one site is the whole host.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kasmina.growth.flops import FlopMeter
from kasmina.growth.scaling import FACTORS
from kasmina.growth.task import Batch, Task, evaluate
from kasmina.lifecycle import Lifecycle
from kasmina.observe.record import Record
from kasmina.sites import Garden, morph

RAMP, HELD_OUT_EVERY = 60, 10  # as `GardenerConfig` has them by default


@dataclass(slots=True)
class Epoch:
    """What one epoch does: the slots that learn aside, ramp or are mixed in, and what its end costs.

    `control` is the number of steps for which a control is trained, `goes_on` whether something
    ramps in the next epoch, `at_rest` whether no seed is under way.
    """

    aside: list[int] = field(default_factory=list)
    ramps: list[int] = field(default_factory=list)
    mixed: list[int] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)  # to graft, at its end
    control: int = 0
    removals: int = 0
    goes_on: bool = False
    at_rest: bool = True


def schedule(records: Sequence[Record], epochs: int) -> list[Epoch]:
    """The epochs of a run, from its events."""
    plan, plane_of = [Epoch() for _ in range(epochs + 1)], _plane_by_state()
    planes: dict[int, str] = {}
    states, resting = dict[int, str](), _resting()
    at_epoch: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        at_epoch[record.epoch].append(record)
    grafted_at = 0
    for number in range(1, epochs + 1):
        epoch = plan[number]
        epoch.at_rest = resting.issuperset(states.values())
        for slot, plane in sorted(planes.items()):
            epoch.aside += [slot] * (plane == "shadow")
            epoch.ramps += [slot] * (plane == "blend")
            epoch.mixed += [slot] * (plane in ("blend", "full"))
        for record in at_epoch[number]:
            if record.kind == "transition" and record.address is not None:
                states[record.address.slot] = str(record["to"])
                planes[record.address.slot] = plane_of[str(record["to"])]
                if "graft" in record["effects"]:
                    epoch.begins.append(record.address.slot)
            elif record.kind == "snapshot":
                grafted_at = record.step
            elif record.kind == "evidence":
                control = record["measure"] == "paired_control"
                epoch.control = record.step - grafted_at if control else epoch.control
                epoch.removals += record["measure"] == "removal_cost"
        epoch.goes_on = "blend" in planes.values()
    return plan[1:]


def _plane_by_state() -> dict[str, str]:
    lifecycle = Lifecycle.default()
    names = {code: name for name, code in lifecycle.attribute_values("plane").items()}
    codes = lifecycle.plane_of(torch.arange(lifecycle.tables.N_STATES)).tolist()
    return {state.name: names[codes[state]] for state in lifecycle.State}


def _resting() -> set[str]:
    """The states in which a seed is not under way."""
    lifecycle = Lifecycle.default()
    return {
        state.name
        for state in lifecycle.State
        if state == lifecycle.initial or lifecycle.tables.IS_TERMINAL[state]
    }


class Grown(nn.Module):
    """The host, and modules beside it, each times a factor."""

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self.host, self.beside = host, nn.ModuleList()
        self.factors: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        """`[B, ...]` to `[B, ...]`."""
        y: Tensor = self.host(x)
        for factor, module in zip(self.factors, self.beside, strict=True):
            y = y + (module(x) if factor == 1 else factor * module(x))
        return y


@dataclass(slots=True)
class Candidate:
    """A module that learns aside."""

    module: nn.Module
    optimizer: torch.optim.Optimizer


class ByHand:
    """Trains a task by a schedule.

    Args:
        task: what to train; its one site is the whole host.
        seed: of the run.
        records: of the grown run that is done again.
        epochs: of that run.
    """

    def __init__(self, task: Task, seed: int, records: Sequence[Record], epochs: int) -> None:
        self.task, self.seed, self.epochs = task, seed, schedule(records, epochs)
        self.kinds = {
            r.address.slot: str(r["blueprint"])
            for r in records
            if r.kind == "allocated" and r.address is not None
        }
        self.meter = FlopMeter()

    def run(self) -> float:
        """Train from the start; returns the wall time in seconds."""
        started = time.perf_counter()
        self._begin()
        for epoch in self.epochs:
            for _ in range(self.data.train.batches_per_epoch):
                self._train(epoch)
            self._end(epoch)
        evaluate(self.task, self.model, self.data.test())
        return time.perf_counter() - started

    def _begin(self) -> None:
        self.data = self.task.build_data(self.seed)
        self.validation = self.data.validation()
        self.model = Grown(self.task.build_model(self.seed))
        self.steps = len(self.epochs) * self.data.train.batches_per_epoch
        self.step = 0
        self.candidates: dict[int, Candidate] = {}
        self.grafted: dict[int, int] = {}  # where a slot's module stands beside the host
        self.optimizer, self.scheduler = self.task.optimizer(self.model.parameters(), self.steps)
        example = self.validation[0][0]
        model = morph(self.task.build_model(self.seed), sites=self.task.sites(), example=example)
        (self.site,) = Garden.of(model).sites.values()

    def _module(self, slot: int) -> nn.Module:
        kind = self.site.pool(self.kinds[slot]).kind
        fresh = torch.Generator().manual_seed(self.seed + slot)
        return kind.export(kind.init(fresh))

    def _train(self, epoch: Epoch) -> None:
        for slot in epoch.ramps:
            place = self.grafted[slot]
            self.model.factors[place] = min(self.model.factors[place] + 1 / RAMP, 1.0)
        x, y = self.data.train.next_batch()
        gradient = self._batch(self.model, self.optimizer, x, y, bool(epoch.aside))
        self.scheduler.step()
        self.step += 1
        if gradient is not None:
            target = -gradient / gradient.square().mean().sqrt()
            for slot in epoch.aside:
                self._learn(slot, x, target)
        if epoch.ramps and self.step % HELD_OUT_EVERY == 0:
            self._held_out()

    def _batch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, tell: bool
    ) -> Tensor | None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with self.meter.forward((x.shape, len(self.grafted), model is self.model), 3):
            output = model(x)
        if tell:
            output.retain_grad()
        torch.autograd.backward(self.task.loss(output, y))
        optimizer.step()
        return output.grad if tell else None

    def _learn(self, slot: int, x: Tensor, target: Tensor) -> None:
        if slot not in self.candidates:
            module = self._module(slot)
            adam = torch.optim.Adam(module.parameters(), lr=1e-2)
            self.candidates[slot] = Candidate(module, adam)
        module, optimizer = self.candidates[slot].module, self.candidates[slot].optimizer
        optimizer.zero_grad(set_to_none=True)
        with self.meter.forward((slot, x.shape), 3):
            output = module(x)
        torch.autograd.backward(mse_loss(output, target))
        optimizer.step()

    def _end(self, epoch: Epoch) -> None:
        """The end of an epoch: validation, judgements and grafts."""
        if epoch.ramps:
            self._held_out()
        if epoch.aside:
            self._judge(epoch.aside)
        elif epoch.at_rest:
            evaluate(self.task, self.model, self.validation)
        else:
            evaluate_counted(self, self.validation)
        if epoch.control:
            self._control(epoch.control)
        for _ in range(epoch.removals):
            evaluate_counted(self, self.validation)
        if epoch.begins:
            self._graft(epoch.begins)
        if epoch.goes_on:
            self._held_out()

    def _loss(self, outputs: list[Tensor] | None = None) -> Tensor:
        """The validation loss with its graph."""
        losses = []
        self.model.eval()
        with self.meter.forward(("validation", len(self.grafted)), 2 if self.grafted else 1):
            for x, y in self.validation:
                output = self.model(x)
                if outputs is not None:
                    outputs.append(output)
                losses.append(self.task.loss(output, y) * len(y))
                self.task.metric(output, y)
        return torch.stack(losses).sum() / sum(len(y) for _, y in self.validation)

    def _held_out(self) -> None:
        torch.autograd.grad(self._loss(), list(self.model.beside[-1].parameters()))

    @torch.no_grad()
    def _judge(self, slots: Sequence[int]) -> None:
        """How well the candidates explain the gradient on held-out data."""
        outputs: list[Tensor] = []
        with torch.enable_grad():
            gradients = torch.autograd.grad(self._loss(outputs), outputs)
        for slot in slots:
            for (x, _), gradient in zip(self.validation, gradients, strict=True):
                with self.meter.forward((slot, x.shape), 1):
                    made = self.candidates[slot].module(x)
                float((made * gradient).sum() / (made.norm() * gradient.norm()))

    def _control(self, steps: int) -> None:
        """A network without the graft, trained as the other one was since."""
        model = self.task.build_model(self.seed)
        optimizer, _ = self.task.optimizer(model.parameters(), self.steps)
        train = self.task.build_data(self.seed).train
        for _ in range(steps):
            self._batch(model, optimizer, *train.next_batch(), False)
        evaluate(self.task, model, self.validation)

    def _graft(self, slots: Sequence[int]) -> None:
        """Put candidates beside the host, after a search for their scale."""
        first = len(self.model.beside)
        for slot in slots:
            self.grafted[slot] = len(self.model.beside)
            self.model.beside.append(self.candidates.pop(slot).module)
            self.model.factors.append(0.0)
        for factor in FACTORS:
            self.model.factors[first:] = [factor] * len(slots)
            evaluate_counted(self, self.validation)
        self.model.factors[first:] = [0.0] * len(slots)
        self.optimizer, self.scheduler = self.task.optimizer(self.model.parameters(), self.steps)
        self.scheduler.last_epoch = self.step


def evaluate_counted(hand: ByHand, batches: list[Batch]) -> float:
    """The loss, and what it cost."""
    with hand.meter.forward(("evaluate", len(hand.grafted)), 1):
        return evaluate(hand.task, hand.model, batches)[0]

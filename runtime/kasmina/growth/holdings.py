"""Which seed holds which row of which pool, and what an optimizer must know of it.

The attribute `blueprint` of a seed's state decides: `required` takes a row, `forbidden` gives it
back at once, `leaving` gives it back when alpha has reached 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from kasmina.blueprints import PoolFull
from kasmina.errors import KasminaError
from kasmina.grafting import strategy_number
from kasmina.growth.aside import AsideTrainer
from kasmina.growth.controller import Command
from kasmina.growth.journal import Journal
from kasmina.growth.optimizer import StaleOptimizer, check_holds
from kasmina.growth.planes import bed_key, beds, mask_in, rows_of
from kasmina.growth.rewind import Stateful
from kasmina.growth.rows import RowGuard
from kasmina.lifecycle import StepResult
from kasmina.sites import Garden


class Holdings:
    """Takes and gives back pool rows for the seeds of a garden.

    Args:
        garden: the sites and their seeds.
        optimizer: holds the pools' parameters.
        aside: trains shadow seeds; told of fresh rows.
        journal: where it is written.
        strategy: grafting strategy of a command that names none.
    """

    def __init__(
        self,
        garden: Garden,
        optimizer: torch.optim.Optimizer,
        aside: AsideTrainer,
        journal: Journal,
        strategy: str,
    ) -> None:
        self._garden, self._aside, self._journal = garden, aside, journal
        self._strategy, self._optimizer = strategy, optimizer
        self.strategies: dict[int, str] = {}  # by row, before the one for all
        strategy_number(strategy)  # an unknown name fails here, not in the middle of a run
        self._guards: dict[str, RowGuard] = {}
        self._closed = False
        for site in garden.sites.values():
            for pool in map(site.pool, site.kinds):
                parameters = list(pool.stacked().values())
                training = partial(site.training_rows, pool.kind.name)
                used, plan = partial(getattr, pool, "occupied"), partial(getattr, site, "plan")
                guard = RowGuard(optimizer, parameters, training, used, plan)
                pool.grown.append(guard.grow)
                self._guards[bed_key(site, pool)] = guard
        self._pooled = list(garden.parameters())
        self._grown = frozenset(map(id, self._pooled))

    def close(self) -> None:
        """Let go of the optimizer and the pools; rows are told apart no more."""
        self._closed = True
        for site in self._garden.sites.values():
            for pool in map(site.pool, site.kinds):
                guard = self._guards[bed_key(site, pool)]
                guard.close()
                pool.grown[:] = [told for told in pool.grown if told != guard.grow]

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise `StaleOptimizer` where `optimizer` would not train what grows; cheap.

        Raises:
            KasminaError: `close` was called.
        """
        if self._closed:
            raise KasminaError(
                "this Gardener was closed; go on with the one that was made after it"
            )
        if optimizer is not self._optimizer:
            raise StaleOptimizer(
                "the Gardener's optimizer is another object than the one that it was made with, "
                "whose rows it keeps apart; close() this one and make a new Gardener, or keep the "
                "optimizer and change its param_groups"
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not held.issuperset(self._grown):
            check_holds(optimizer, self._garden.pool_parameters())

    def take_root(self, model: nn.Module) -> None:
        """Let the sites begin the graph where the host was frozen, and leave it where it trains.

        Raises:
            KasminaError: seeds were frozen with it.
        """
        if not all(p.requires_grad for p in self._pooled):
            frozen = [n for n, p in self._garden.pool_parameters().items() if not p.requires_grad]
            raise KasminaError(
                f"{len(frozen)} parameter(s) of the seeds do not require grad, so these could not grow: "
                f"{frozen[0]}{', ...' if len(frozen) > 1 else ''}. To freeze a model after morph() "
                "freezes its seeds too; freeze it before, or call model.kasmina.requires_grad_(True)"
            )
        trainable = (id(p) for p in model.parameters() if p.requires_grad)
        rootless = all(key in self._grown for key in trainable)  # up to the host's first one
        for site in self._garden.sites.values():
            site.take_root(rootless)

    def refuse_unlearned(self) -> None:
        """Refuse a step from which nothing could learn, though there is a host that trains.

        Raises:
            KasminaError: none of the optimizer's parameters has a gradient.
        """
        groups = self._optimizer.param_groups
        if any(p.grad is not None for group in groups for p in group["params"]):
            return  # at the first one, in most runs
        held = [p for group in groups for p in group["params"]]
        if any(p.requires_grad and id(p) not in self._grown for p in held):
            raise KasminaError(
                "step(loss): no parameter that the optimizer holds has a gradient, so nothing would "
                "be learned; call torch.autograd.backward(loss) before it, after "
                "optimizer.zero_grad()"
            )

    def stateful(self) -> dict[str, Stateful]:
        """The ages of all rows, by bed."""
        return {f"kasmina.rows.{key}": guard for key, guard in self._guards.items()}

    def bind(self, commands: Sequence[Command], result: StepResult) -> None:
        """Note the kind and the strategy of each command whose edge was taken.

        A seed that holds a row keeps its kind, whatever it is told: the row is of that kind's pool.
        """
        lifecycle = self._garden.state.lifecycle
        free = self._garden.state["blueprint_slot"] < 0
        edges = dict(zip(result.rows.tolist(), result.edge[result.rows].tolist(), strict=True))
        for command in commands:
            edge = edges.get(command.row)
            if edge is None or lifecycle.edges[edge].event != lifecycle.event(command.event):
                continue
            site = self._garden.site_of(command.row)
            if free[command.row]:
                kind = site.kinds.index(command.blueprint) if command.blueprint else 0
                own = self.strategies.get(command.row, self._strategy)
                number = strategy_number(command.strategy or own)
                self._garden.state.update(
                    [command.row], {"blueprint_id": kind, "grafting_strategy": number}
                )

    def refuse(self, command: Command) -> None:
        """Refuse a command that names what is not there, before anything has moved.

        Raises:
            KasminaError: no such seed, event, kind at its site, or strategy.
        """
        state, where = self._garden.state, f"command {command.event!r} of seed {command.row}"
        if not 0 <= command.row < len(state):
            raise KasminaError(f"{where}: the seeds are 0 to {len(state) - 1}")
        state.lifecycle.event(command.event)
        kinds = self._garden.site_of(command.row).kinds
        if command.blueprint and command.blueprint not in kinds:
            grows = ", ".join(kinds)
            raise KasminaError(f"{where}: its site grows {grows}, not {command.blueprint!r}")
        if command.strategy:
            strategy_number(command.strategy)

    def allocate(self) -> list[int]:
        """Give a row to every seed that needs one; returns the seeds for which there is none."""
        state = self._garden.state
        wanting = mask_in(state, "blueprint", "required") & (state["blueprint_slot"] < 0)
        refused = []
        for row in rows_of(wanting).tolist():
            try:
                self._garden.allocate(row)
            except PoolFull:
                refused.append(row)
            else:
                self._welcome(row)
        return refused

    def release(self) -> None:
        """Take back the rows of seeds that may hold none any more."""
        state = self._garden.state
        holding = state["blueprint_slot"] >= 0
        gone = mask_in(state, "blueprint", "leaving") & (state["alpha"] <= 0)
        gone |= mask_in(state, "blueprint", "forbidden")
        for bed in beds(self._garden, rows_of(gone & holding)):
            for row, slot in zip(bed.rows.tolist(), bed.slots.tolist(), strict=True):
                self._garden.release(row)
                self._guards[bed.key].forget(slot)
                self._write("released", row, bed.pool.kind.name, slot)

    def _welcome(self, row: int) -> None:
        (bed,) = beds(self._garden, torch.tensor([row]))
        slot = int(bed.slots[0])
        self._guards[bed.key].forget(slot)
        self._aside.start(bed)
        self._write("allocated", row, bed.pool.kind.name, slot)

    def _write(self, kind: str, seed: int, blueprint: str, row: int) -> None:
        site = self._garden.site_of(seed)
        parameters = site.pool(blueprint).kind.cost().parameters
        self._journal.write(kind, of=seed, blueprint=blueprint, row=row, parameters=parameters)

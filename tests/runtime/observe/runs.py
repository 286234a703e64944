"""Logs of runs that never ran, written through `EventLog` itself: realistic, quick, repeatable."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from kasmina.observe.folder import LOG
from kasmina.observe.log import EventLog, SeedKey

PER_EPOCH = 19
COST = 196  # parameters of one blueprint
# state: (event, next state, effects, epochs in it); what a seed that does well goes through
GOOD = (
    ("GERMINATED", "promote", 1),
    ("TRAINING", "reconstruction_pass", 4),
    ("GRAFTING", "complete", 5),
    ("STABILIZATION", "settle", 3),
    ("EVALUATING", "positive", 1),
    ("FINE_TUNING", "improve", 4),
    ("FOSSILIZED", "", 0),
)
EFFECTS = {
    "GRAFTING": ["snapshot", "graft"],
    "EVALUATING": ["judge"],
    "ROLLED_BACK": ["rewind"],
}


SPEC = {
    "initial": "DORMANT",
    "terminal": ["FOSSILIZED", "CULLED", "CANCELLED", "ROLLED_BACK"],
}


@dataclass
class FakeRun:
    """Writes a run event by event, and keeps what later events must agree with."""

    folder: Path
    seeds: int = 8
    epochs: int = 60
    task: str = "digits"
    site: str = "features"
    budget: int | None = 3466
    metric: str = "accuracy"
    spec: Mapping[str, object] = field(default_factory=lambda: SPEC)
    step: int = 0
    epoch: int = 0
    parameters: int = 330
    state: dict[int, str] = field(default_factory=dict)
    previous: dict[int, str] = field(default_factory=dict)  # the state before
    entered: dict[int, int] = field(default_factory=dict)  # the epoch of the last move
    held: dict[int, bool] = field(default_factory=dict)  # whether it has a blueprint
    noise: random.Random = field(default_factory=lambda: random.Random(7))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = dict.fromkeys(range(self.seeds), "DORMANT")
        self.time = 1_760_000_000.0
        self.log = EventLog(self.folder / LOG, f"{self.task}-0", clock=self._clock)
        self.add(
            "run_started",
            task=self.task,
            seed=0,
            spec={"name": "lifecycle", "digest": "8c1d" * 16, **self.spec},
            config={"width": 4, "limits": {"min_stability": 0.9, "max_cohort": 64}},
            parameters=self.parameters,
            sites=[
                {
                    "path": self.site,
                    "placement": "parallel",
                    "first_row": 0,
                    "seeds": self.seeds,
                    "kinds": ["mlp", "gated"],
                }
            ],
            epochs=self.epochs,
            budget=self.budget,
            metric=self.metric,
        )

    def _clock(self) -> float:
        self.time += 0.02
        return self.time

    def add(self, kind: str, *, slot: int | None = None, **fields: Any) -> None:
        """Append an event at the run's clock."""
        address = None if slot is None else SeedKey(self.site, slot, 0)
        self.log.append(kind, epoch=self.epoch, step=self.step, address=address, **fields)

    def move(self, seed: int, to: str, event: str, reason: str = "") -> None:
        """Move a seed, with the allocations and releases that go with it."""
        self.add(
            "transition",
            slot=seed,
            event=event,
            edge=3,
            effects=EFFECTS.get(to, []),
            reason=reason,
            **{"from": self.state[seed], "to": to},
        )
        self.previous[seed], self.entered[seed] = self.state[seed], self.epoch
        self.state[seed] = to
        if to == "TRAINING":
            self.add("allocated", slot=seed, blueprint="mlp", row=seed, parameters=COST)
            self.parameters += COST
            self.held[seed] = True

    def release(self, seed: int) -> None:
        """Give a blueprint back."""
        self.add("released", slot=seed, blueprint="mlp")
        self.parameters -= COST
        self.held[seed] = False

    def judge(self, seed: int, value: float) -> None:
        """Log a graft's evidence."""
        self.add(
            "evidence",
            slot=seed,
            measure="path_integral",
            value=value,
            interval=[value - 0.03, value + 0.04],
            terms=60,
            rent=0.0123,
        )

    def decide(self, seeds: list[int], reason: str) -> None:
        """Log a decision; with seeds, also the commands and moves that follow from it."""
        actions = [
            {
                "event": "request_germination",
                "site": self.site,
                "slot": seed,
                "generation": 0,
                "blueprint": "mlp",
            }
            for seed in seeds
        ]
        self.add(
            "decision",
            controller="tamiyo",
            observation={"validation_metric": 0.8},
            legal=9,
            action=actions,
            reason=reason,
        )
        for seed in seeds:
            self.move(seed, "GERMINATED", "request_germination", "gradient ratio 0.31")

    def end_epoch(self, metric: float, loss: float) -> None:
        """Train an epoch and log it."""
        self.epoch += 1
        self.step += PER_EPOCH
        self.time += 0.2
        wobble = self.noise.gauss(0, 0.008)
        self.add(
            "epoch",
            train_loss=loss * (0.93 + wobble),
            validation_loss=loss * (1.04 - wobble),
            validation_metric=min(max(metric + wobble, 0.0), 1.0),
            parameters=self.parameters,
            flops=int(self.step * self.parameters * 600),
            states=dict(Counter(self.state.values())),
        )

    def finish(self, test: float = 0.97, status: str = "finished", *, compare: bool = True) -> Path:
        """Log comparisons and the end; returns the folder."""
        static = (("static start", 330, 0.772), ("static final", 3466, 0.963))
        for name, parameters, metric in static if compare else ():
            curve = [
                [PER_EPOCH * e, metric * (1 - math.exp(-e / 9))] for e in range(1, self.epochs + 1)
            ]
            self.add(
                "comparison",
                name=name,
                parameters=parameters,
                test_metric=metric,
                train_flops=parameters * 700_000,
                curve=curve,
            )
        held = [s for s, name in self.state.items() if name == "FOSSILIZED"]
        self.add(
            "run_finished",
            status=status,
            validation_metric=test + 0.004,
            test_metric=test,
            parameters=self.parameters,
            train_flops=2_140_000_000,
            states=dict(Counter(self.state.values())),
            architecture=[
                {
                    "site": self.site,
                    "slot": seed,
                    "generation": 0,
                    "blueprint": "mlp",
                    "parameters": COST,
                    "state": "FOSSILIZED",
                }
                for seed in held
            ],
        )
        self.log.close()
        return self.folder


def grown(folder: Path, *, seeds: int = 8, epochs: int = 60, finished: bool = True) -> Path:
    """A run that grows in two waves: most seeds are kept, one is culled, one is rewound."""
    run = FakeRun(folder, seeds=seeds, epochs=epochs)
    fates = [_fate(seed, seeds) for seed in range(seeds)]
    while run.epoch < epochs:
        here = run.epoch
        kept = sum(state == "FOSSILIZED" for state in run.state.values())
        run.end_epoch(
            0.4 + 0.36 * (1 - math.exp(-here / 6)) + 0.21 * min(1, here / 60) * (kept > 0),
            2.2 * math.exp(-here / 12) + 0.16,
        )
        starting = [seed for seed in range(seeds) if fates[seed][0] == here]
        if starting:
            run.decide(
                starting, f"plateau: validation loss 0.61 is 2 epochs old; {len(starting)} seeds"
            )
        else:
            run.decide([], f"no plateau: the best validation loss is {here % 3} epochs old")
        for seed in range(seeds):
            _live(run, seed, *fates[seed])
    return run.finish() if finished else folder


def _fate(seed: int, seeds: int) -> tuple[int, str]:
    """When a seed germinates and how it ends."""
    start = 6 if seed < seeds / 2 else 24
    return start, {2: "culled", 3: "rewound", 6: "culled", 7: "never"}.get(seed, "kept")


def _live(run: FakeRun, seed: int, start: int, fate: str) -> None:
    age, due = run.epoch - 1 - start, 0
    if fate == "never" or age <= 0:
        return
    if run.state[seed] == "CULLED" and run.held[seed]:
        run.release(seed)
    for (state, event, stay), (after, *_) in pairwise(GOOD):
        due += stay
        if run.state[seed] == state and age >= due:
            _leave(run, seed, event, after, fate)
            return


def _leave(run: FakeRun, seed: int, event: str, after: str, fate: str) -> None:
    if after == "FINE_TUNING":
        good = fate != "culled"
        end = ("FINE_TUNING", "positive") if good else ("CULLED", "negative")
        run.move(seed, *end, "evaluation_score > min_evaluation_score" if good else "timed_out")
        run.judge(seed, 0.12 + 0.01 * seed if good else -0.05)
        return
    if after == "STABILIZATION" and fate == "rewound":
        _rewind(run, seed)
        return
    if after == "GRAFTING":
        run.add("snapshot", number=seed)
    run.move(seed, after, event, f"guard of {event}")


def _rewind(run: FakeRun, seed: int) -> None:
    run.move(seed, "ROLLED_BACK", "emergency", "the blueprint put out a NaN or an infinity")
    before = run.step
    run.step, run.epoch = before - 5 * PER_EPOCH, run.epoch - 5
    for other, moved in run.entered.items():
        if moved > run.epoch and other != seed:
            run.state[other] = run.previous[other]
    run.add(
        "rewind",
        number=seed,
        from_step=before,
        to_step=run.step,
        to="ROLLED_BACK",
        addresses=[{"site": run.site, "slot": seed, "generation": 0}],
    )
    run.release(seed)

"""What the framework costs: a grown run beside the same arithmetic in plain PyTorch.

Both arms run in turns in one process, on one thread, after a run of each that is not timed. The
plain arm is written by hand (`_by_hand`): the same passes of the same networks, candidates,
controls and validations included, each by real torch modules, with the same FLOPs to a percent.
Beside it stands the final architecture trained from the start for as many FLOPs.
"""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

from kasmina.bench import Row, benchmark, require, single_thread
from kasmina.bench import _growth_arms as arms
from kasmina.bench._by_hand import ByHand
from kasmina.control import TamiyoController
from kasmina.growth.static import reinitialised, train_static

SEEDS, QUICK_EPOCHS = (1, 2, 3, 4, 5), 30


@benchmark("overhead")
def run(*, quick: bool = False) -> list[Row]:
    """Wall time of growing on digits, beside plain PyTorch that does the same FLOPs."""
    subject = arms.SUBJECTS["digits"]
    with single_thread():
        _round(1, QUICK_EPOCHS)  # imports, caches
        epochs = QUICK_EPOCHS if quick else subject.task(0).default_epochs
        rounds = [_round(seed, epochs) for seed in (SEEDS[:1] if quick else SEEDS)]
    ours, hand, static = (median(getattr(each, n) for each in rounds) for n in Round._fields[:3])
    over = median(100 * (each.grown / each.by_hand - 1) for each in rounds)
    busy = median(100 * (each.grown_cpu / each.by_hand_cpu - 1) for each in rounds)
    beside = {"plain PyTorch, the same passes": hand, "its architecture, equal FLOPs": static}
    against = {
        "over its architecture, equal FLOPs": 100 * (ours / static - 1),
        "processor time over the same passes": busy,
    }
    target = None if quick else 15.0
    name = f"digits, {epochs} epochs: wall time"
    return [
        Row(f"{name} over the same passes", over, "%", target, "<=", against),
        Row(f"{name} in total", ours, "s", baselines=beside),
    ]


class Round(NamedTuple):
    """Seconds of one round; the processor's leave out what other programs took."""

    grown: float
    by_hand: float
    static: float
    grown_cpu: float
    by_hand_cpu: float


def _round(seed: int, epochs: int) -> Round:
    """The grown run, the same by hand, and its architecture from the start."""
    subject = arms.SUBJECTS["digits"]
    task = subject.task(seed)
    begun = time.process_time()
    grown, seen = arms.grow_seen(task, seed, epochs, subject.budget, TamiyoController())
    grown_cpu = time.process_time() - begun
    hand = ByHand(task, seed, seen.records, epochs)
    begun = time.process_time()
    by_hand = hand.run()
    by_hand_cpu = time.process_time() - begun
    share = hand.meter.total / grown.train_flops
    require(abs(share - 1) < 0.02, f"both arms do the same FLOPs, not {share:.1%} of them")
    model = reinitialised(task, grown.model, seed)
    steps = round(grown.train_flops / arms._flops_per_step(task, model, seed))
    static = train_static(task, model, "static", seed, steps)[0]
    return Round(grown.wall_s, by_hand, static.wall_s, grown_cpu, by_hand_cpu)

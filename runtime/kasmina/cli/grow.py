"""`kasmina grow`: train a network and let it grow meanwhile."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from kasmina.cli import resuming
from kasmina.cli.ending import SIGNALLED, interrupts
from kasmina.cli.job import check_numbers, job, limits_of
from kasmina.cli.outcome import save_network, summary, tell
from kasmina.cli.run_bus import HERE, BusOptions, RunBus
from kasmina.cli.words import Flag, WholeOrNone
from kasmina.errors import UsageError
from kasmina.observe.folder import FolderError, RunFolder, write_atomically

if TYPE_CHECKING:
    from kasmina.checkpoint import CheckpointManager
    from kasmina.growth import GrowConfig, RunResult
    from kasmina.growth.task import Task

RUNS = Path("runs")
DEFAULTS = {"seed": 0, "compare": False, "limits": {}, "every": 10, **resuming.SINCE}


def grow(
    *,
    task: str | None = None,
    width: WholeOrNone = None,
    budget: WholeOrNone = None,
    epochs: WholeOrNone = None,
    seed: WholeOrNone = None,
    compare: Flag = False,
    out: Path | None = None,
    force: Flag = False,
    json: Flag = False,
    lifecycle: Path | None = None,
    set_: Annotated[Sequence[str], Parameter(name="--set", negative=())] = (),
    checkpoint_every: WholeOrNone = None,
    resume: Path | None = None,
    strategy: str | None = None,
    reach: BusOptions = HERE,
) -> int:
    """Train a network and let it grow meanwhile.

    Leaves a run directory with the event log, the result, the report and the grown network. Ctrl-C
    or SIGTERM ends in order after the current step; a second one ends at once. Whatever ended it,
    --resume goes on from the last checkpoint, to the same result.

    Args:
        task: digits, mnist1d, chars, or your own as package.module:function.
        width: width of the start network.
        budget: parameters that the network may have in the end.
        epochs: epochs to train.
        seed: of the start network, of the batches and of all that Kasmina draws; 0 if not given.
        compare: also train the static start network and a static one of the final size.
        out: run directory; without it the first free one of runs/TASK-SEED, runs/TASK-SEED-2, ...
        force: replace the run that the directory holds.
        json: print the result as one JSON object; everything else goes to standard error.
        lifecycle: directory of a lifecycle of your own, from `kasmina spec build FILE --out DIR`.
        set_: another value for a limit of the lifecycle, as limit=value; may be given again.
        checkpoint_every: epochs from one checkpoint to the next, 10 if not given; also one at each
            graft and rewind, and every five minutes. 0 keeps none.
        resume: run directory whose run goes on; its options are those that it was started with.
        strategy: how a graft's factor rises from 0 to 1: linear, cosine, drift_controlled, momentum,
            adaptive, performance_linked, one of your own, or learned: the run finds out which
            serves it best.
        reach: how the run is reached from outside.

    Returns:
        0, or 130 where Ctrl-C and 143 where SIGTERM ended the run in order.
    """
    check_numbers(width=width, budget=budget, epochs=epochs, seed=seed, every=checkpoint_every)
    given = {
        "task": task,
        "width": width,
        "budget": budget,
        "epochs": epochs,
        "seed": seed,
        "compare": compare or None,
        "lifecycle": None if lifecycle is None else str(lifecycle.resolve()),
        "limits": limits_of(set_) or None,
        "every": checkpoint_every,
        "controller": reach.controller,
        "strategy": strategy,
    }
    console = Console(stderr=json, highlight=False)
    if resume is not None:
        if out is not None or force:
            raise UsageError(
                "--resume goes on in the run's own directory: leave --out and --force out"
            )
        folder, options = resuming.resumed(resume, given)
        if checkpoint_every is not None:
            options["every"] = checkpoint_every
        bus = reach.settled(options)
        what, config = job(options)
    else:
        if task is None:
            raise UsageError("give --task, or --resume RUN to go on with a run")
        bus = reach.settled()
        options = {name: DEFAULTS.get(name) if v is None else v for name, v in given.items()}
        options |= bus.kept()
        what, config = job(options)
        folder = _folder(out, what.name, force, options)
    with folder.held():
        result, asked = _run(what, config, folder, console, options, bus, resume is not None)
    if json:
        print(json_module.dumps(summary(result)))  # noqa: T201  one line, not wrapped
    tell(console, result, folder)
    return SIGNALLED + asked if asked else 0


def _folder(out: Path | None, task: str, force: bool, options: dict[str, Any]) -> RunFolder:
    seed, kept = options["seed"], options if options["every"] else None
    if out is None:
        return RunFolder.create_next(RUNS, task, seed, replace=force, options=kept)
    return RunFolder.create(out, task, seed, replace=force, options=kept)


def _manager(folder: RunFolder) -> CheckpointManager:
    from kasmina.checkpoint import CheckpointManager, Retention

    return CheckpointManager(folder.checkpoints, retention=Retention(normal=3, high=3))


def _run(
    task: Task,
    config: GrowConfig,
    folder: RunFolder,
    console: Console,
    options: dict[str, Any],
    bus: RunBus,
    resume: bool,
) -> tuple[RunResult, int]:
    """Grow, and leave log, result, report, network and checkpoints in the folder.

    Returns:
        The result, and the signal that has asked for an early end, 0 for none.
    """
    import torch

    from kasmina.control import TamiyoController
    from kasmina.control.remote import BusController
    from kasmina.growth import grow
    from kasmina.growth.found import ResumeRefused
    from kasmina.growth.saving import Saving
    from kasmina.observe.live import follow
    from kasmina.observe.log import EventLog, Position
    from kasmina.observe.report import write_report

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    run = f"{task.name}-{config.seed}"
    every = options["every"]
    manager = _manager(folder) if every or resume else None
    found = resuming.find(manager, folder, console) if manager and resume else None
    saving = Saving(manager, every, found, resume) if manager else None
    at = found.position if found else Position(0, 0)
    try:
        with (
            manager or nullcontext(),
            EventLog(folder.log, run, at=at if resume else None) as log,
            interrupts(console) as stop,
            follow(log, console, found.events if found else ()),
        ):
            outside = bus.outside(run, log, config)
            left = bus.controller == "bus"

            def begun() -> None:
                folder.keep(bus.kept())
                for line in bus.told(run, outside.metrics_port):
                    console.print(line, markup=False, soft_wrap=True)

            result = grow(
                task,
                config,
                controller=BusController(outside) if left else TamiyoController(),
                log=log,
                stop=_first(begun, lambda: stop() > 0),
                gardening={"strategy": options["strategy"]},
                saving=saving,
                outside=outside,
            )
            asked = stop()
    except ResumeRefused:
        raise  # all is as it was
    except BaseException:
        if folder.log.exists() and folder.log.stat().st_size:
            with suppress(FolderError):  # what is being raised says more
                write_report(folder.path)
        else:
            folder.discard()  # the run never began, so it leaves nothing
        raise
    write_atomically(folder.result, f"{json_module.dumps(summary(result), indent=2)}\n".encode())
    save_network(result, folder)
    write_report(folder.path)
    return result, asked


def _first(begun: Callable[[], None], stop: Callable[[], bool]) -> Callable[[], bool]:
    """Return `stop` that calls `begun` when it is asked first: the run stands, and is on its bus."""
    told = False

    def asked() -> bool:
        nonlocal told
        if not told:
            told = True
            begun()
        return stop()

    return asked

"""`kasmina grow`: train a network and let it grow meanwhile."""

from __future__ import annotations

import json as json_module
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter, Token
from rich.console import Console
from rich.table import Table

from kasmina.cli import resuming
from kasmina.errors import UsageError
from kasmina.observe.folder import PUBLISHED, FolderError, RunFolder, write_atomically

if TYPE_CHECKING:
    from kasmina.checkpoint import CheckpointManager
    from kasmina.growth import GrowConfig, RunResult
    from kasmina.growth.outside import Outside
    from kasmina.growth.task import Task
    from kasmina.observe.log import EventLog

SIGNALLED = 128  # and the signal's number: what a shell reports of a program that a signal ended
RUNS = Path("runs")
DEFAULTS = {"seed": 0, "compare": False, "limits": {}, "every": 10, **resuming.SINCE}

Flag = Annotated[bool, Parameter(negative=())]


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """Read a whole number; `int` of the command line's library would cut 1.5 to 1."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]
WholeOrNone = Annotated[int | None, Parameter(converter=_whole)]


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
    bus: Annotated[str | None, Parameter(env_var="KASMINA_BUS")] = None,
    bus_key: Path | None = None,
    controller: Literal["tamiyo", "bus"] | None = None,
    strategy: str | None = None,
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
        bus: server on which the run tells how it is and takes commands, as redis://HOST:PORT; one
            in the process if not given.
        bus_key: file of keys (`kasmina bus key FILE`): take commands only from who knows one.
        controller: who decides: tamiyo in the process, or bus for who listens there, as
            `kasmina tamiyo` does.
        strategy: how a graft's factor rises from 0 to 1: linear, cosine, drift_controlled, momentum,
            adaptive, performance_linked, one of your own, or learned: the run finds out which
            serves it best.

    Returns:
        0, or 130 where Ctrl-C and 143 where SIGTERM ended the run in order.
    """
    _check_numbers(width=width, budget=budget, epochs=epochs, seed=seed, every=checkpoint_every)
    given = {
        "task": task,
        "width": width,
        "budget": budget,
        "epochs": epochs,
        "seed": seed,
        "compare": compare or None,
        "lifecycle": None if lifecycle is None else str(lifecycle.resolve()),
        "limits": _limits(set_) or None,
        "every": checkpoint_every,
        "controller": controller,
        "strategy": strategy,
    }
    reach = Reached(bus, bus_key)
    console = Console(stderr=json, highlight=False)
    if resume is not None:
        if out is not None or force:
            raise UsageError(
                "--resume goes on in the run's own directory: leave --out and --force out"
            )
        folder, options = resuming.resumed(resume, given)
        if checkpoint_every is not None:
            options["every"] = checkpoint_every
        job, config = _job(options)
    else:
        if task is None:
            raise UsageError("give --task, or --resume RUN to go on with a run")
        options = {name: DEFAULTS.get(name) if v is None else v for name, v in given.items()}
        job, config = _job(options)
        folder = _folder(out, job.name, force, options)
    with folder.held():
        result, asked = _run(job, config, folder, console, options, reach, resume is not None)
    if json:
        print(json_module.dumps(summary(result)))  # noqa: T201  one line, not wrapped
    _tell(console, result, folder)
    return SIGNALLED + asked if asked else 0


def summary(result: RunResult) -> dict[str, Any]:
    """Return what `--json` prints; a figure that is not known is null."""
    plain = {
        field.name: getattr(result, field.name) for field in fields(result) if field.name != "model"
    }
    plain["comparisons"] = [
        {field.name: _known(getattr(each, field.name)) for field in fields(each)}
        for each in result.comparisons
    ]
    return {name: _known(value) for name, value in plain.items()}


def _job(options: dict[str, Any]) -> tuple[Task, GrowConfig]:
    """What to train and how, from the options of a run."""
    job = _task(options["task"], options["width"])
    _check_strategy(options["strategy"])  # after the task, whose module may register some
    return job, _config(
        options["width"],
        options["budget"],
        options["epochs"],
        options["seed"],
        options["compare"],
        None if options["lifecycle"] is None else Path(options["lifecycle"]),
        options["limits"],
    )


def _check_strategy(name: str) -> None:
    from kasmina.grafting import StrategyError, strategy_number

    try:
        strategy_number(name)
    except StrategyError as error:
        raise UsageError(f"--strategy: {error}") from None


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_numbers(
    *,
    width: int | None,
    budget: int | None,
    epochs: int | None,
    seed: int | None,
    every: int | None,
) -> None:
    least = {
        "--width": (width, 1),
        "--budget": (budget, 1),
        "--epochs": (epochs, 1),
        "--seed": (seed, 0),
        "--checkpoint-every": (every, 0),
    }
    for name, (value, lowest) in least.items():
        if value is not None and value < lowest:
            raise UsageError(f"{name} is {value}; it must be {lowest} or more")


def _limits(given: Sequence[str]) -> dict[str, float]:
    """Read `limit=value` pairs."""
    limits: dict[str, float] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        with suppress(ValueError):
            if equals and name and name not in limits:
                limits[name] = int(value) if value.lstrip("+-").isdigit() else float(value)
                continue
        twice = "is given twice" if name in limits else "is not of the form limit=number"
        raise UsageError(f"--set {pair} {twice}; write e.g. --set min_stability=0.8")
    return limits


def _task(name: str, width: int | None) -> Task:
    from kasmina.tasks import find

    task = find(name)
    if width is not None and not task.widths:
        raise UsageError(f"--width {width}: task {name!r} builds one width only; leave it out")
    return task


def _config(
    width: int | None,
    budget: int | None,
    epochs: int | None,
    seed: int,
    compare: bool,
    directory: Path | None,
    limits: dict[str, float],
) -> GrowConfig:
    from kasmina.growth import GrowConfig
    from kasmina.lifecycle import Lifecycle, LimitTable

    lifecycle = Lifecycle.default() if directory is None else Lifecycle.from_directory(directory)
    table = LimitTable(lifecycle)  # a limit that is not legal is told before the run
    for name, value in limits.items():
        table.override(name, value)
    return GrowConfig(
        width=width,
        budget=budget,
        epochs=epochs,
        seed=seed,
        compare=compare,
        lifecycle=lifecycle,
        limits=limits,
    )


def _folder(out: Path | None, task: str, force: bool, options: dict[str, Any]) -> RunFolder:
    seed, kept = options["seed"], options if options["every"] else None
    if out is None:
        return RunFolder.create_next(RUNS, task, seed, replace=force, options=kept)
    return RunFolder.create(out, task, seed, replace=force, options=kept)


def _manager(folder: RunFolder) -> CheckpointManager:
    from kasmina.checkpoint import CheckpointManager, Retention

    return CheckpointManager(folder.checkpoints, retention=Retention(normal=3, high=3))


class Reached(NamedTuple):
    """The bus of a run."""

    url: str | None
    key: Path | None

    def outside(self, run: str, log: EventLog, config: GrowConfig) -> Outside:
        """The run on it; in the process it keeps less, as it takes the run's own memory."""
        from kasmina.bus.connecting import open_bus
        from kasmina.bus.in_process import InProcessBus
        from kasmina.bus.signing import Verifier, read_keys
        from kasmina.bus.telemetry import TelemetryConfig
        from kasmina.growth.outside import Outside, OutsideConfig

        verify = None if self.key is None else Verifier(read_keys(self.key))
        if self.url is None:
            few = OutsideConfig(telemetry=TelemetryConfig(keep=16, key_every=8), events_keep=256)
            return Outside(run, InProcessBus().peer, log=log, verify=verify, config=few)
        from kasmina.cli.limits import prover

        assert config.lifecycle is not None
        return Outside(
            run,
            partial(open_bus, self.url),
            log=log,
            cursor=log.path.with_name(PUBLISHED),
            verify=verify,
            prove=prover(config.lifecycle.digest),
        )


def _run(
    task: Task,
    config: GrowConfig,
    folder: RunFolder,
    console: Console,
    options: dict[str, Any],
    reach: Reached,
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
    from kasmina.growth.saving import ResumeRefused, Saving
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
            _interrupt(console) as stop,
            follow(log, console, found.events if found else ()),
        ):
            outside = reach.outside(run, log, config)
            left = options["controller"] == "bus"
            result = grow(
                task,
                config,
                controller=BusController(outside) if left else TamiyoController(),
                log=log,
                stop=lambda: stop() > 0,
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
    _save(result, folder)
    write_report(folder.path)
    return result, asked


@contextmanager
def _interrupt(console: Console) -> Iterator[Callable[[], int]]:
    """Let the first Ctrl-C or SIGTERM ask for an end in order, and the second one end at once."""
    asked = 0
    at_once: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = number
        for each, handler in at_once.items():
            signal.signal(each, handler)
        console.print("ending after this step; Ctrl-C again ends at once")

    before = {each: signal.signal(each, ask) for each in at_once}
    try:
        yield lambda: asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _save(result: RunResult, folder: RunFolder) -> None:
    """Write the network that grew, as a plain one without seeds."""
    from safetensors.torch import save

    from kasmina.sites import fold

    write_atomically(folder.model, save(fold(result.model).state_dict()))


def _tell(console: Console, result: RunResult, folder: RunFolder) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("", "parameters", "test", "train GFLOP", "wall"):
        table.add_column(heading, justify="left" if not heading else "right")
    grown = ("grown", result.params_final, result.test_metric, result.train_flops, result.wall_s)
    others = [
        (each.name, each.parameters, each.test_metric, each.train_flops, each.wall_s)
        for each in result.comparisons
    ]
    for name, parameters, metric, flops, wall in (grown, *others):
        table.add_row(
            name, f"{parameters:,}", f"{metric:.2%}", f"{flops / 1e9:.2f}", f"{wall:.1f} s"
        )
    console.print()
    console.print(table)
    seeds = ", ".join(f"{count} {name}" for name, count in result.states.items())
    console.print(f"\ngrew from {result.params_start:,} parameters; seeds: {seeds}")
    console.print(f"report: {folder.report}", soft_wrap=True)
    if result.status != "finished":
        console.print(f"{result.status}: the figures are those of the network as it stands")
    if isinstance(result.test_metric, float) and math.isnan(result.test_metric):
        console.print("the task has no test split, so nothing was measured on one")

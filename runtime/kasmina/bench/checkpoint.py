"""What it takes to save and restore, beside the disk's own floor and torch.save."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from torch import nn

from kasmina.bench import Row, benchmark, interleave, require, single_thread
from kasmina.checkpoint import CheckpointManager, Contents, Retention
from kasmina.lifecycle import StateTensor
from kasmina.tasks.mlp import build_mlp

SEEDS, SAVES = 10_000, 300
LAYERS, WIDTH = 13, 1024  # 13 matrices of 1024 x 1024 float32: 52 MB, the size in the anchors
LARGE_SAVES = 15
ROUNDS = 60  # saves in the background beside training
STEPS_BETWEEN = 20  # training steps from one save in the background to the next


@benchmark("checkpoint")
def run() -> list[Row]:
    """Durable saves and verified restores of 10,000 seeds and of 52 MB of weights."""
    with single_thread(), _folder() as folder:
        return [
            *_small(folder),
            *_background(folder),
            *_large(folder),
            _kills(folder),
            _flips(folder),
        ]


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder on the disk of the working directory; the system's may lie in memory."""
    folder = Path(tempfile.mkdtemp(prefix=".kasmina-bench-", dir=Path.cwd()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _floor(folder: Path, data: bytes) -> None:
    """The least that is durable: write, fsync, rename, fsync of the directory."""
    temporary = folder / "floor.tmp"
    with temporary.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    temporary.replace(folder / "floor")
    _sync(folder)


def _sync(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _seeds() -> Contents:
    state = StateTensor(SEEDS)
    stream = torch.Generator().manual_seed(0)
    state.update(slice(None), {"alpha": torch.rand(SEEDS, generator=stream)})
    return Contents(state=state.state_dict())


def _small(folder: Path) -> list[Row]:
    contents = _seeds()
    manager = CheckpointManager(folder / "small", retention=Retention(normal=3))
    size = (manager.directory / f"{manager.save(contents)}.ckpt").stat().st_size
    _check(manager, contents)
    data = os.urandom(size)
    timings = interleave(
        {"floor": lambda: _floor(folder, data), "save": lambda: manager.save(contents)},
        repeats=SAVES,
    )
    restores = interleave(
        {
            "restore": lambda: manager.restore().contents(),
            "afresh": lambda: CheckpointManager(manager.directory).restore().contents(),
            "read": lambda: (folder / "floor").read_bytes(),
        },
        repeats=SAVES,
    )
    beside_restore = {
        "by a process that did not save it, ms": 1e3 * restores.median("afresh"),
        "read as many bytes, ms": 1e3 * restores.median("read"),
    }
    save, floor = (sorted(timings.seconds[name]) for name in ("save", "floor"))
    late = int(0.99 * SAVES)
    beside = {"save, ms": 1e3 * median(save), "floor, ms": 1e3 * median(floor)}
    beside_late = {"save, ms": 1e3 * save[late], "floor, ms": 1e3 * floor[late]}
    return [
        Row(f"durable save of {SEEDS:,} seeds ({size:,} bytes), p50",
            median(save) / median(floor), "x the floor", 3.0, baselines=beside),
        Row("the same, p99", save[late] / floor[late], "x the floor", 8.0, baselines=beside_late),
        Row("verified restore of the same", 1e3 * restores.median("restore"), "ms", 2.0,
            baselines=beside_restore),
    ]  # fmt: skip


def _background(folder: Path) -> list[Row]:
    contents = _seeds()
    manager = CheckpointManager(folder / "background", retention=Retention(normal=3))
    for _ in range(10):
        manager.save(contents)
    began = time.perf_counter()
    for _ in range(SAVES):
        manager.save(contents, blocking=False)
    manager.flush()
    rate = SAVES / (time.perf_counter() - began)
    data = os.urandom(next(manager.directory.iterdir()).stat().st_size)
    floor = interleave({"floor": lambda: _floor(folder, data)}, repeats=ROUNDS).median("floor")
    lost = _lost(manager, contents, lambda: _floor(folder, data))
    return [
        Row("sustained durable saves", rate, "a second", 300.0, ">=",
            baselines={"the floor, one after the other": 1 / floor}),
        Row("call of a save in the background", lost["call"], "ms of the training thread", 0.5,
            baselines={"of it on the processor": lost["call, processor"]}),
        Row(f"{STEPS_BETWEEN} training steps while it saves", lost["save"] - lost["alone"],
            "ms longer a save",
            baselines={"while a thread writes as many bytes, ms longer": lost["floor"] - lost["alone"],
                       f"{STEPS_BETWEEN} steps alone, ms": lost["alone"]}),
    ]  # fmt: skip


def _lost(
    manager: CheckpointManager, contents: Contents, floor: Callable[[], None]
) -> dict[str, float]:
    """Median milliseconds of the call, and of training steps beside a save, the floor, nothing."""
    step = _training()
    seconds = defaultdict[str, list[float]](list)

    def steps() -> None:
        for _ in range(STEPS_BETWEEN):
            step()

    for _ in range(ROUNDS):
        seconds["alone"].append(_seconds(steps))
        began = time.thread_time()
        seconds["call"].append(_seconds(lambda: manager.save(contents, blocking=False)))
        seconds["call, processor"].append(time.thread_time() - began)
        seconds["save"].append(_seconds(steps))
        manager.flush()
        writer = threading.Thread(target=floor)
        writer.start()
        seconds["floor"].append(_seconds(steps))
        writer.join()
    return {name: 1e3 * median(values) for name, values in seconds.items()}


def _training() -> Callable[[], None]:
    """One training step of the digits MLP."""
    model = build_mlp(64, 10, 32, seed=0)
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.randn(64, 64), torch.randint(10, (64,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()

    return step


def _large(folder: Path) -> list[Row]:
    stream = torch.Generator().manual_seed(0)
    weights = {f"{i}.weight": torch.randn(WIDTH, WIDTH, generator=stream) for i in range(LAYERS)}
    contents = Contents(parts={"model": weights})
    manager = CheckpointManager(folder / "large", retention=Retention(normal=1))
    manager.save(contents)
    _torch_save(folder, weights)
    restored = manager.restore().contents().parts["model"]
    require(
        all(torch.equal(restored[name], value) for name, value in weights.items()),
        "52 MB of weights come back to the bit",
    )
    saves = interleave(
        {"save": lambda: manager.save(contents), "torch": lambda: _torch_save(folder, weights)},
        repeats=LARGE_SAVES,
    )
    loads = interleave(
        {"load": lambda: manager.restore().contents(), "torch": lambda: _torch_load(folder)},
        repeats=LARGE_SAVES,
    )
    return [
        Row("durable save of 52 MB of weights", saves.ratio("save", "torch"),
            "x torch.save + fsync", 1.0, baselines=_milliseconds(saves.median)),
        Row("verified load of the same", loads.ratio("load", "torch"), "x torch.load", 1.2,
            baselines=_milliseconds(loads.median, "load")),
    ]  # fmt: skip


def _kills(folder: Path) -> Row:
    """In a process of its own, which forks one for each point."""
    (folder / "kills").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "kasmina.bench._killing", str(folder / "kills")],
        capture_output=True,
        text=True,
        check=False,
    )
    require(done.returncode == 0, f"the store opens after every kill: {done.stderr}")
    found = json.loads(done.stdout)
    name = f"kill -9 at {found['points']} points of a save and its prune: the old or the new state"
    return Row(name, 100 * found["survived"] / found["points"], "%", 100.0, ">=")


def _flips(folder: Path) -> Row:
    manager = CheckpointManager(folder / "flips")
    id_ = manager.save(Contents(parts={"model": {"w": torch.arange(9.0)}}))
    path = manager.directory / f"{id_}.ckpt"
    whole, found = path.read_bytes(), 0
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                found += manager.verify(id_)[0].fault is not None
            os.pwrite(file.fileno(), bytes([byte]), place)
    require(manager.verify(id_)[0].fault is None, "the file is whole without a flipped bit")
    count = 8 * len(whole)
    return Row(f"single-bit flips of a checkpoint ({count:,}) detected", 100 * found / count, "%",
               100.0, ">=")  # fmt: skip


def _milliseconds(of: Callable[[str], float], ours: str = "save") -> dict[str, float]:
    return {f"{ours}, ms": 1e3 * of(ours), f"torch.{ours}, ms": 1e3 * of("torch")}


def _torch_save(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """As durable as ours: fsync, rename, fsync of the directory."""
    temporary = folder / "torch.tmp"
    with temporary.open("wb") as file:
        torch.save(weights, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / "torch.pt")
    _sync(folder)


def _torch_load(folder: Path) -> object:
    return torch.load(folder / "torch.pt", weights_only=True)


def _check(manager: CheckpointManager, contents: Contents) -> None:
    found, given = manager.restore().contents().state, contents.state
    assert found is not None and given is not None
    same = (torch.equal(found["columns"][n], column) for n, column in given["columns"].items())
    require(all(same), "the seeds' columns come back to the bit")


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

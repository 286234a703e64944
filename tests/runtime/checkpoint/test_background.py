"""Saves in the background: snapshots, order, back-pressure, errors that are heard."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kasmina.checkpoint import CheckpointManager, Contents, DiskFull, Retention, StoreFailed
from kasmina.checkpoint.saver import Saver
from tests.faults.disks import Failing, Watched, contents, number_in
from tests.helpers import ROOT, run_python


class Gate(Watched):
    """Holds every fsync of a file until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.reached = threading.Event()

    def before(self, name: str, arguments: tuple[object, ...]) -> None:
        """Wait."""
        if name in ("create", "fsync"):
            self.reached.set()
            assert self.open.wait(30)


def test_what_changes_after_the_call_cannot_get_in(tmp_path: Path) -> None:
    """Tensors, arrays, lists and dicts are changed while the thread has not begun to write."""
    disk = Gate()
    manager = CheckpointManager(tmp_path, disk=disk)
    part: dict[str, Any] = {
        "tensor": torch.arange(1000.0),
        "half": torch.ones(7, dtype=torch.bfloat16),
        "array": np.arange(5),
        "list": [1, {"a": 2}],
    }
    metadata = {"epoch": [1]}
    id_ = manager.save(Contents(parts={"p": part}, metadata=metadata), blocking=False)
    assert disk.reached.wait(30)
    part["tensor"].zero_()
    part["half"].zero_()
    part["array"][:] = -1
    part["list"][1]["a"] = 9
    metadata["epoch"].append(2)
    disk.open.set()
    manager.flush()
    found = manager.restore(id_).contents()
    assert torch.equal(found.parts["p"]["tensor"], torch.arange(1000.0))
    assert torch.equal(found.parts["p"]["half"], torch.ones(7, dtype=torch.bfloat16))
    assert found.parts["p"]["array"].tolist() == [0, 1, 2, 3, 4]
    assert found.parts["p"]["list"] == [1, {"a": 2}]
    assert found.metadata == {"epoch": [1]}


def test_a_change_during_a_blocking_save_harms_no_file(tmp_path: Path) -> None:
    """The digest is that of what was written, whatever another thread does meanwhile."""
    manager = CheckpointManager(tmp_path)
    tensor = torch.zeros(2_000_000)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            tensor.add_(1)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            manager.save(Contents(parts={"p": tensor}))
    finally:
        stop.set()
        thread.join()
    assert [verdict.fault for verdict in manager.verify()] == [None] * 5


def test_a_full_queue_makes_the_caller_wait(tmp_path: Path) -> None:
    """One is being written, two wait, the fourth call waits for room."""
    disk = Gate()
    manager = CheckpointManager(tmp_path, disk=disk, queue=2)
    manager.save(contents(1), blocking=False)
    assert disk.reached.wait(30)
    for number in (2, 3):
        manager.save(contents(number), blocking=False)
    done = threading.Event()

    def fourth() -> None:
        manager.save(contents(4), blocking=False)
        done.set()

    thread = threading.Thread(target=fourth)
    thread.start()
    assert not done.wait(0.1)
    disk.open.set()
    thread.join(30)
    assert done.is_set()
    manager.flush()
    numbers = [number_in(manager.restore(str(e.id)).contents()) for e in manager.list()]
    assert numbers == [4, 3, 2, 1]


def test_latest_is_not_what_waits(tmp_path: Path) -> None:
    """Before it is durable, the one before is the latest."""
    disk = Gate()
    disk.open.set()
    manager = CheckpointManager(tmp_path, disk=disk)
    first = manager.save(contents(1))
    disk.open.clear()
    second = manager.save(contents(2), blocking=False)
    assert manager.restore().id == first
    disk.open.set()
    manager.flush()
    assert manager.restore().id == second


Call = Callable[[CheckpointManager], object]


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.flush(),
        lambda m: m.close(),
        lambda m: m.prune(),
        lambda m: m.migrate(),
        lambda m: m.archive("000000000001-00000000"),
        lambda m: m.save(contents(3)),
        lambda m: m.save(contents(3), blocking=False),
    ],
    ids=["flush", "close", "prune", "migrate", "archive", "save", "save in the background"],
)
def test_an_error_is_raised_by_the_next_call(call: Call, tmp_path: Path) -> None:
    """Once, with its own type; the store goes on afterwards."""
    disk = Failing("fsync", 2)
    manager = CheckpointManager(tmp_path, disk=disk)
    first = manager.save(contents(1))
    manager.save(contents(2), blocking=False)
    with manager._saver._changed:
        manager._saver._changed.wait_for(lambda: manager._saver._failures, 30)
    assert disk.fired == 1
    with pytest.raises(StoreFailed):
        call(manager)
    manager.flush()
    assert manager.restore().id == first
    disk._nth = 10**9
    assert manager.restore(manager.save(contents(4), blocking=True)).id > first


def test_later_errors_are_told_with_the_first(tmp_path: Path) -> None:
    """None is dropped."""

    class Doomed(Gate):
        """Full, once it is opened."""

        def before(self, name: str, arguments: tuple[object, ...]) -> None:
            """Wait, and fail."""
            super().before(name, arguments)
            if name == "create":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk = Doomed()
    manager = CheckpointManager(tmp_path, disk=disk)
    ids = [manager.save(contents(number), blocking=False) for number in (1, 2)]
    disk.open.set()
    with pytest.raises(DiskFull, match=ids[0]) as caught:
        manager.flush()
    (note,) = caught.value.__notes__
    assert note.startswith(f"and later: writing {tmp_path}/{ids[1]}.ckpt: No space left on device")
    manager.flush()
    assert disk.calls["create"] == 2


def test_leaving_the_context_saves_and_raises(tmp_path: Path) -> None:
    """The end of `with` waits for what is queued, and an error comes out of it."""
    with CheckpointManager(tmp_path) as manager:
        id_ = manager.save(contents(1), blocking=False)
    assert manager.restore().id == id_
    with (
        pytest.raises(StoreFailed),
        CheckpointManager(tmp_path, disk=Failing("rename")) as failing,
    ):
        failing.save(contents(2), blocking=False)


END = """
from kasmina.checkpoint import CheckpointManager
from tests.faults.disks import Failing, contents
manager = CheckpointManager({place!r}, disk=Failing("fsync") if {fail} else None)
manager.save(contents(1), blocking=False)
"""


def test_a_program_that_ends_has_saved(tmp_path: Path) -> None:
    """Without flush or close."""
    done = run_python(END.format(place=str(tmp_path), fail=False), cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert number_in(CheckpointManager(tmp_path).restore().contents()) == 1


def test_a_program_that_ends_tells_what_failed(tmp_path: Path) -> None:
    """The error stands on its standard error, and the directory is as it was."""
    done = run_python(END.format(place=str(tmp_path), fail=True), cwd=ROOT)
    assert "kasmina.checkpoint.errors.StoreFailed: writing" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_has_a_thread_of_its_own(tmp_path: Path) -> None:
    """Jobs of the parent are the parent's; the child's saves are done by the child."""
    code = f"""
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
from kasmina.checkpoint import CheckpointManager
from tests.faults.disks import contents
manager = CheckpointManager({str(tmp_path)!r})
manager.save(contents(1), blocking=False)
manager.flush()
child = os.fork()
if child == 0:
    manager.save(contents(2), blocking=False)
    manager.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
manager.save(contents(3), blocking=False)
manager.flush()
"""
    done = run_python(code, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    manager = CheckpointManager(tmp_path)
    numbers = [number_in(manager.restore(str(e.id)).contents()) for e in manager.list()]
    assert numbers == [3, 2, 1]


def test_saving_many_keeps_the_newest(tmp_path: Path) -> None:
    """In the background with retention; nothing else is left, and no thread is waited for twice."""
    manager = CheckpointManager(tmp_path, retention=Retention(normal=2, high=1))
    ids = [
        manager.save(contents(n), priority="high" if n % 5 == 0 else "normal", blocking=False)
        for n in range(1, 13)
    ]
    manager.flush()
    assert [str(entry.id) for entry in manager.list()] == [ids[11], ids[10], ids[9]]
    assert len(os.listdir(tmp_path)) == 3  # noqa: PTH208


def test_an_idle_thread_ends_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread is left behind by a manager that nobody uses any more."""
    monkeypatch.setattr("kasmina.checkpoint.saver.IDLE_S", 0.01)
    manager = CheckpointManager(tmp_path)
    for number in (1, 2):
        manager.save(contents(number), blocking=False)
        manager.flush()
        for _ in range(500):
            if manager._saver._thread is None:
                break
            time.sleep(0.01)
        assert manager._saver._thread is None
    assert number_in(manager.restore().contents()) == 2


def test_a_queue_has_room_for_one_at_least() -> None:
    """0 would wait for ever."""
    with pytest.raises(ValueError, match="a queue of 0; legal is 1 or more"):
        Saver(0)


def test_a_thread_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That save is refused; later ones start a thread, and nothing waits for one that is not there."""
    refused: list[threading.Thread] = []
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        refused.append(thread)
        raise RuntimeError("can't start new thread")

    manager = CheckpointManager(tmp_path)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        manager.save(contents(1), blocking=False)
    monkeypatch.setattr(threading.Thread, "start", start)
    saved = manager.save(contents(2), blocking=False)
    manager.flush()
    manager.close()
    assert len(refused) == 1
    assert [str(entry.id) for entry in manager.list()] == [saved]

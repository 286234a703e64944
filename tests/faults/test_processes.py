"""Several processes save, read and prune in one directory at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kasmina.checkpoint import CheckpointManager, Retention
from kasmina.checkpoint.disk import reading
from tests.faults.disks import contents, filled, leftovers, number_in
from tests.helpers import ROOT

Count = Callable[[str, object], None]

SAVER = """
import sys
from kasmina.checkpoint import CheckpointManager, Retention
from tests.faults.disks import contents
manager = CheckpointManager(sys.argv[1], retention=Retention(3))
base = int(sys.argv[2])
for number in range(base, base + 40):
    print(manager.save(contents(number), blocking=number % 2 == 0), flush=True)
manager.close()
"""
READER = """
import sys, os
from pathlib import Path
from kasmina.checkpoint import CheckpointManager, NoCheckpoint
from tests.faults.disks import number_in
manager = CheckpointManager(sys.argv[1])
last, count = "", 0
while not Path(sys.argv[2]).exists():
    try:
        found = manager.restore()
    except NoCheckpoint:
        assert last == "", "a checkpoint that was there is gone"
        continue
    assert found.skipped == () and found.id >= last, (found.skipped, found.id, last)
    last, count = found.id, count + 1
    number_in(found.contents())
print(count)
"""
PRUNER = """
import sys
from pathlib import Path
from kasmina.checkpoint import CheckpointManager, Retention
manager, count = CheckpointManager(sys.argv[1]), 0
while not Path(sys.argv[2]).exists():
    count += len(manager.prune(Retention(1)).deleted)
    for entry in manager.list()[-1:]:
        try:
            manager.archive(str(entry.id))
        except LookupError:
            pass
    CheckpointManager(sys.argv[1])
print(count)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a program of this page."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_savers_readers_and_pruners_at_once(tmp_path: Path, record_property: Count) -> None:
    """Readers only ever see whole checkpoints and never an older one than before."""
    place, stop = tmp_path / "c", tmp_path / "stop"
    others = [start(READER, place, stop), start(PRUNER, place, stop)]
    savers = [start(SAVER, place, base) for base in (100, 200, 300)]
    saved = [saver.communicate(timeout=100) for saver in savers]
    stop.write_text("")
    told = [other.communicate(timeout=30) for other in others]
    assert [out[1] for out in (*saved, *told)] == [""] * 5
    ids = [line for out, _ in saved for line in out.split()]
    assert len(set(ids)) == 120
    manager = CheckpointManager(place)
    assert manager.restore().id == max(ids)
    assert all(verdict.fault is None for verdict in manager.verify())
    assert list(leftovers(place)) == []
    reads, deleted = (int(out) for out, _ in told)
    assert reads > 5
    record_property(
        "counted", f"120 saves in 3 processes, {reads} reads, {deleted} deleted meanwhile"
    )


def test_what_is_read_is_not_deleted(tmp_path: Path) -> None:
    """The file that a reader has open stays, and is told; the next prune deletes it."""
    manager, ids = filled(tmp_path, 3)
    with reading(tmp_path / f"{ids[0]}.ckpt"):
        pruned = CheckpointManager(tmp_path).prune(Retention(1))
        assert (pruned.deleted, pruned.in_use) == ((ids[1],), (ids[0],))
        assert number_in(manager.restore(ids[0]).contents()) == 1
    assert manager.prune(Retention(1)).deleted == (ids[0],)


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    """A killed writer's temporary file goes when the directory is opened; a live one's stays."""
    code = """
import sys, time
from kasmina.checkpoint import CheckpointManager
from tests.faults.disks import Watched, contents
class Slow(Watched):
    def before(self, name, arguments):
        if name == "fsync":
            print("writing", flush=True)
            sys.stdin.readline()
CheckpointManager(sys.argv[1], disk=Slow()).save(contents(1))
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    (temporary,) = leftovers(tmp_path)
    CheckpointManager(tmp_path)
    assert temporary.exists()
    writer.kill()
    writer.communicate()
    for _ in range(100):  # the kernel gives the lock back when the process is gone
        CheckpointManager(tmp_path)
        if not temporary.exists():
            break
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_ids_count_on_over_processes(tmp_path: Path) -> None:
    """A second manager's checkpoints are newer than those that it found."""
    _, ids = filled(tmp_path, 2)
    other = CheckpointManager(tmp_path)
    later = other.save(contents(3))
    assert later > ids[1]
    assert CheckpointManager(tmp_path).save(contents(4)) > later


def test_a_reader_waits_until_the_name_is_durable(tmp_path: Path) -> None:
    """Between rename and sync of the directory nobody takes the new one for the latest."""
    code = """
import sys, time
from kasmina.checkpoint import CheckpointManager
from tests.faults.disks import Watched, contents
class Slow(Watched):
    def before(self, name, arguments):
        if name == "fsync_directory" and self.calls["rename"]:
            print("renamed", flush=True)
            time.sleep(0.3)
            raise OSError(5, "Input/output error")
try:
    CheckpointManager(sys.argv[1], disk=Slow()).save(contents(2))
except OSError:
    print("failed", flush=True)
"""
    manager, ids = filled(tmp_path, 1)
    writer = start(code, tmp_path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "renamed\n"
    assert len(list(tmp_path.iterdir())) == 2
    found = manager.restore()  # waits, and then the new one has been taken back
    assert (found.id, found.skipped) == (ids[0], ())
    assert writer.communicate(timeout=30)[0] == "failed\n"

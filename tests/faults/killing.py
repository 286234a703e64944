"""Kill -9 before and after every call to the disk; run as a program of its own, without torch.

Each point is a process that is forked, runs one operation on a fresh copy of a directory, and kills
itself there. Then the directory is opened as the next run would, and the oracle asks for exactly
the old or exactly the new state. The counts are printed as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kasmina.checkpoint import CheckpointManager, Retention, memory
from kasmina.checkpoint.migration import Migrated
from kasmina.checkpoint.v1 import read
from tests.faults.disks import Watched, contents, filled, number_in
from tests.runtime.checkpoint.golden import GOLDEN

PIECE = 512  # bytes of a write here, so that small checkpoints take several, as large ones do
Operation = Callable[[CheckpointManager], object]
Oracle = Callable[[Path, CheckpointManager], str]


class Killer(Watched):
    """Kills its own process at the n-th point; every call is two points, before and after it."""

    def __init__(self, point: int) -> None:
        super().__init__()
        self._left = point

    def before(self, name: str, arguments: tuple[object, ...]) -> None:
        """Count, and die."""
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, name: str, arguments: tuple[object, ...], result: object) -> None:
        """Count, and die."""
        self.before(name, arguments)


def save(manager: CheckpointManager) -> str:
    """Add number 4."""
    return manager.save(contents(4))


def save_and_prune(manager: CheckpointManager) -> str:
    """Add number 4 and keep two."""
    with_retention = CheckpointManager(
        manager.directory, retention=Retention(2), disk=manager._store.disk
    )
    return with_retention.save(contents(4))


def prune(manager: CheckpointManager) -> object:
    """Keep one of three."""
    return manager.prune(Retention(1))


def archive(manager: CheckpointManager) -> object:
    """Compress all."""
    return [manager.archive(str(entry.id)) for entry in manager.list()]


def migrate(manager: CheckpointManager) -> Migrated:
    """Take over what is of format 1, and delete it."""
    return manager.migrate(remove=True)


def convert(manager: CheckpointManager) -> Migrated:
    """Bring the rows of all under another spec."""
    return manager.migrate(lambda state: {**state, "digest": "1" * 64}, digest="1" * 64)


def three(directory: Path) -> None:
    """Numbers 1 to 3."""
    filled(directory, 3)


def golden(directory: Path) -> None:
    """Two checkpoints of format 1."""
    shutil.copytree(GOLDEN, directory)


def newest_is(directory: Path, manager: CheckpointManager) -> str:
    """3 before, 4 afterwards; nothing damaged, the numbers without a gap."""
    found = manager.restore()
    assert found.skipped == ()
    numbers = [number_in(manager.restore(str(e.id)).contents()) for e in manager.list()]
    assert numbers[0] == number_in(found.contents())
    assert numbers == list(range(numbers[0], numbers[-1] - 1, -1))
    assert len(numbers) >= 2
    return {3: "old", 4: "new"}[numbers[0]]


def pruned(directory: Path, manager: CheckpointManager) -> str:
    """3 is always there; what is there is intact."""
    numbers = [number_in(manager.restore(str(e.id)).contents()) for e in manager.list()]
    assert numbers[0] == 3
    return {3: "old", 2: "between", 1: "new"}[len(numbers)]


def archived(directory: Path, manager: CheckpointManager) -> str:
    """All three are there and equal, each in one of the two forms."""
    numbers = [number_in(manager.restore(str(e.id)).contents()) for e in manager.list()]
    assert numbers == [3, 2, 1]
    packed = sum(
        e.manifest is not None and e.manifest.data.packed is not None for e in manager.list()
    )
    return {0: "old", 3: "new"}.get(packed, "between")


def converted(directory: Path, manager: CheckpointManager) -> str:
    """All three are there, each under one of the two specs, and otherwise equal."""
    found = [manager.restore(str(entry.id)) for entry in manager.list()]
    assert [number_in(each.contents()) for each in found] == [3, 2, 1]
    done = sum(each.manifest.spec is not None and each.manifest.spec.digest == "1" * 64
               for each in found)  # fmt: skip
    assert done == sum(bool(each.manifest.migrations) for each in found)
    return {0: "old", 3: "new"}.get(done, "between")


def migrated(directory: Path, manager: CheckpointManager) -> str:
    """Each golden checkpoint is there in format 1, or in format 2, or in both."""
    made = {entry.id.number: entry for entry in manager.list()}
    names = sorted(path.name for path in GOLDEN.glob("*.json"))
    for name in names:
        old = read(GOLDEN / name)
        if old.id.number in made:
            state = manager.restore(str(old.id)).contents().state
            assert state is not None
            for column, block in old.columns.items():
                assert np.asarray(state["columns"][column]).tobytes() == bytes(block.data)
        else:
            assert read(directory / name).blake3 == old.blake3
    left = len(list(directory.glob("checkpoint_*")))
    if left == 0:
        return "new"
    return "between" if made else "old"


OPERATIONS: dict[str, tuple[Operation, Callable[[Path], None], Oracle]] = {
    "save": (save, three, newest_is),
    "save and prune": (save_and_prune, three, newest_is),
    "prune": (prune, three, pruned),
    "archive": (archive, three, archived),
    "migrate": (migrate, golden, migrated),
    "convert": (convert, three, converted),
}


def in_child(action: Callable[[], object]) -> int:
    """Run something in a forked process; returns the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:  # noqa: BLE001  the child must not go on as its parent
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def killed_everywhere(name: str, folder: Path) -> dict[str, int]:
    """How many points of an operation were survived with which outcome."""
    operate, prepare, oracle = OPERATIONS[name]
    template, outcomes, order = folder / "template", Counter[str](), []
    prepare(template)
    for point in itertools.count():
        directory = folder / "at"
        shutil.copytree(template, directory)
        disk = Killer(point + 2)  # opening makes the directory: two points that are none of ours
        ended = in_child(lambda d=directory, k=disk: operate(CheckpointManager(d, disk=k)))  # type: ignore[misc]
        manager = CheckpointManager(directory)  # as the next run does: sweeps
        assert not [path.name for path in directory.iterdir() if path.suffix == ".tmp"]
        order.append(oracle(directory, manager))
        shutil.rmtree(directory)
        if ended == 0:
            break
        assert ended == signal.SIGKILL
        outcomes[order[-1]] += 1
    assert order[-1] == "new"  # nobody was killed: it is done
    assert order == sorted(order, key=["old", "between", "new"].index), order
    return dict(outcomes)


def main() -> None:
    """Print the outcomes of one operation."""
    memory.PIECE = PIECE
    name, folder = sys.argv[1], Path(sys.argv[2])
    sys.stdout.write(json.dumps(killed_everywhere(name, folder)))


if __name__ == "__main__":
    main()

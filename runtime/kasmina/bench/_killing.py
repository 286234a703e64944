"""Kill -9 before and after every call to the disk of one save and its prune.

A program of its own, because it forks: `python -m kasmina.bench._killing DIRECTORY` prints how many
points there are, and at how many of them exactly the old or the new state was found afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kasmina.checkpoint import CheckpointManager, Contents, Retention
from kasmina.checkpoint.disk import Disk

CALLS = ("create", "write", "fsync", "rename", "unlink", "fsync_directory")


class Killer(Disk):
    """Kills its own process at the n-th point; every call has one before and one after it."""

    def __init__(self, point: int) -> None:
        self._left = point

    def reach(self) -> None:
        """Count a point, and die where it is time."""
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _between_points(name: str) -> Callable[..., Any]:
    real = getattr(Disk, name)

    def call(self: Killer, *arguments: Any) -> Any:
        self.reach()
        result = real(self, *arguments)
        self.reach()
        return result

    return call


for _name in CALLS:
    setattr(Killer, _name, _between_points(_name))


def numbered(number: int) -> Contents:
    """Contents that tell which they are."""
    return Contents(parts={"bytes": bytes([number]) * 1000}, metadata={"number": number})


def killed(directory: Path, point: int) -> bool:
    """Save number 4 in a process of its own, and keep two; whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            manager = CheckpointManager(directory, disk=Killer(point), retention=Retention(2))
            manager.save(numbered(4))
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  the child must not go on as its parent
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the save at point {point} failed and was not killed")
    return os.WIFSIGNALED(status)


def survived(directory: Path) -> bool:
    """Whether 3 or 4 is the newest, with all between it and the oldest, and nothing is damaged."""
    manager = CheckpointManager(directory)
    found = [manager.restore(str(entry.id)).contents() for entry in manager.list()]
    numbers = [each.metadata["number"] for each in found]
    whole = all(each.parts == numbered(n).parts for n, each in zip(numbers, found, strict=True))
    swept = all(path.suffix == ".ckpt" for path in directory.iterdir())
    return whole and swept and numbers in ([3, 2, 1], [4, 3, 2, 1], [4, 3, 2], [4, 3])


def main(folder: Path) -> None:
    """Every point, until nobody is killed any more."""
    points = good = 0
    template, place = folder / "template", folder / "at"
    manager = CheckpointManager(template)
    for number in (1, 2, 3):
        manager.save(numbered(number))
    while True:
        shutil.copytree(template, place)
        if not killed(place, points):
            break
        points, good = points + 1, good + survived(place)
        shutil.rmtree(place)
    sys.stdout.write(json.dumps({"points": points, "survived": good}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

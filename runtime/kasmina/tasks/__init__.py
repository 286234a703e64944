"""Built-in tasks, and the door to a user's own.

A built-in task is a module with a function `task()`; it is imported when it is asked for, so that
neither torch nor a data set is loaded before.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from kasmina.errors import UsageError

if TYPE_CHECKING:
    from kasmina.growth.task import Task

BUILT_IN = {
    "digits": "scikit-learn's handwritten digits, 8 x 8 pixels, for a small MLP",
    "mnist1d": "MNIST-1D, 40 samples of a signal, for a small MLP",
    "chars": "Python's own sources, character by character, for a small transformer",
}


class UnknownTask(UsageError):
    """A task name that is neither built in nor `package.module:function`."""

    def __init__(self, name: str) -> None:
        near = get_close_matches(name, BUILT_IN, n=1)
        guess = f" (did you mean {near[0]!r}?)" if near else ""
        super().__init__(
            f"unknown task {name!r}{guess}; built in are {', '.join(BUILT_IN)}; "
            "your own is named package.module:function"
        )


def find(name: str) -> Task:
    """Return the task of this name.

    Args:
        name: one of `BUILT_IN`, or `package.module:function`.

    Raises:
        UnknownTask: there is no such task.
        MissingPackage: the task's data comes with a package that is not installed.
        InvalidTask: the function cannot be found, fails, or returns something else.
    """
    if ":" in name:
        from kasmina.tasks import user

        return user.load(name)
    if name not in BUILT_IN:
        raise UnknownTask(name)
    task: Task = import_module(f"kasmina.tasks.{name}").task()
    return task

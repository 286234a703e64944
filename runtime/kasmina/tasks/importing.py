"""Finding a user's function, and telling what the user's code raises and where."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType

from kasmina.errors import KasminaError
from kasmina.tasks.loaders import describe


class InvalidTask(KasminaError, ValueError):
    """A function that gives no task."""


def resolve(name: str) -> Callable[[], object]:
    """Find the function of `package.module:function`; the working folder is searched first.

    Raises:
        InvalidTask: there is no such module or function, or it cannot be called without arguments.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(p.isidentifier() for p in module_name.split(".")):
        raise InvalidTask(f"task {name!r} is not of the form package.module:function")
    module = _import(name, module_name)
    if not hasattr(module, attribute):
        raise InvalidTask(
            f"task {name!r}: module {module_name!r} ({module.__file__}) has no function "
            f"{attribute!r}; {_near(attribute, module)}"
        )
    function: Callable[[], object] = getattr(module, attribute)
    if not callable(function):
        raise InvalidTask(f"task {name!r}: {attribute!r} is {describe(function)}, not a function")
    _check_no_arguments(name, function)
    return function


def _import(name: str, module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # a console script does not search the working folder by itself
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise InvalidTask(
                f"task {name!r}: there is no module {error.name!r} in the working folder {here} "
                "or on Python's path: mind the spelling, or set PYTHONPATH"
            ) from error
        raise _failed(name, f"module {module_name!r}", error) from error
    except Exception as error:
        raise _failed(name, f"module {module_name!r}", error) from error


def _near(attribute: str, module: ModuleType) -> str:
    own = [key for key, value in vars(module).items() if inspect.isroutine(value)]
    public = sorted(key for key in own if not key.startswith("_"))
    near = get_close_matches(attribute, public, n=3) or public[:8]
    return f"it has {', '.join(near)}" if near else "it has no functions"


def _check_no_arguments(name: str, function: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise InvalidTask(
            f"task {name!r}: {getattr(function, '__name__', function)} is built in and does not say "
            "what it takes; name a Python function of your own"
        ) from error
    try:
        signature.bind()
    except TypeError as error:
        raise InvalidTask(
            f"task {name!r}: the function is called without arguments, but takes {signature}: "
            "give them defaults"
        ) from error


@contextmanager
def told(name: str, what: str) -> Iterator[None]:
    """Turn what the user's code raises into an error that says what and where."""
    try:
        yield
    except KasminaError:
        raise
    except Exception as error:
        raise _failed(name, what, error) from error


def _failed(name: str, what: str, error: Exception) -> InvalidTask:
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not _is_ours_or_installed(frame.filename)]
    place = (theirs or frames)[-1]
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return InvalidTask(f"task {name!r}: {what} raised {text} ({place.filename}:{place.lineno})")


def _is_ours_or_installed(filename: str) -> bool:
    return (
        filename.startswith(("<frozen", str(Path(__file__).parents[1])))
        or "site-packages" in filename
        or Path(filename).is_relative_to(Path(inspect.__file__).parent)
    )

"""The public API: what `import kasmina` promises."""

from __future__ import annotations

import ast
from importlib.metadata import version
from inspect import getsource
from pathlib import Path

import pytest

import kasmina


@pytest.mark.parametrize("name", kasmina.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each resolves to something that has a docstring of its own."""
    assert getattr(kasmina, name).__doc__


def test_type_checkers_see_the_names_that_run() -> None:
    """The imports under TYPE_CHECKING, the lazy table and `__all__` say the same."""
    tree = ast.parse(getsource(kasmina))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: (node.module or "").removeprefix("kasmina.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == kasmina._ROOM_OF
    assert sorted(seen) == kasmina.__all__


def test_rooms_are_attributes() -> None:
    """A room need not be imported by name, and `dir` lists all of them."""
    folder = Path(kasmina.__file__).parent
    rooms = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert rooms | {"errors"} == kasmina._ROOMS
    assert kasmina.bus.__name__ == "kasmina.bus"
    assert {*rooms, *kasmina.__all__, "__version__"} <= set(dir(kasmina))


def test_the_version_is_that_of_the_distribution() -> None:
    """One number, in pyproject.toml."""
    assert kasmina.__version__ == version("kasmina")


def test_a_wrong_name_is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="module 'kasmina' has no attribute 'Gardner'"):
        _ = kasmina.Gardner

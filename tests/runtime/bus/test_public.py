"""What `kasmina.bus` gives, and what it costs to import."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import kasmina.bus
from tests.helpers import run_python


def test_every_public_name_is_there_and_typed() -> None:
    """The list, the modules and what type checkers see are the same."""
    for name in kasmina.bus.__all__:
        assert getattr(kasmina.bus, name).__name__ == name
    assert sorted(kasmina.bus._MODULE_OF) == sorted(kasmina.bus.__all__)
    tree = ast.parse(Path(kasmina.bus.__file__).read_text())
    typed = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kasmina.bus.")
        for alias in node.names
    }
    assert typed == {(n, f"kasmina.bus.{m}") for n, m in kasmina.bus._MODULE_OF.items()}


def test_other_names_are_not_there() -> None:
    """And a module stays a module."""
    with pytest.raises(AttributeError, match=r"module 'kasmina\.bus' has no attribute 'Nothing'"):
        _ = kasmina.bus.Nothing
    assert sys.modules["kasmina.bus.retry"].__name__ == "kasmina.bus.retry"


def test_a_bus_in_the_process_needs_no_redis() -> None:
    """Nor torch."""
    code = (
        "import sys, kasmina.bus as bus; bus.InProcessBus(); bus.CommandHandler; bus.Consumer; "
        "sys.exit(bool({'redis', 'torch', 'prometheus_client'} & set(sys.modules)))"
    )
    assert run_python(code).returncode == 0

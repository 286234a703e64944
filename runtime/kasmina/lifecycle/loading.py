"""Importing a package that `kasmina spec build` wrote somewhere else."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

from kasmina.errors import KasminaError

_numbers = itertools.count()


class PackageError(KasminaError):
    """A directory that is no generated package, or one that cannot be trusted."""


def load_package(directory: Path) -> ModuleType:
    """Import the generated package in `directory` under a name of its own."""
    name = f"kasmina_built_{next(_numbers)}"
    found = importlib.util.spec_from_file_location(
        name, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module

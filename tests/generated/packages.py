"""Generated packages, built where a test wants them and imported under a name of their own."""

from __future__ import annotations

import importlib
import itertools
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.emit.files import apply, changes
from kasmina_generator.emit.render import render
from kasmina_generator.model import Spec

MACHINES = Path(__file__).parents[1] / "generator" / "machines"
SPECS = {
    "lifecycle": kasmina_spec.LIFECYCLE,
    "lifecycle_v1": kasmina_spec.LIFECYCLE_V1,
    "orders": MACHINES / "orders.yaml",
    "traffic_light": MACHINES / "traffic_light.yaml",
}
COMMITTED = {"lifecycle": "kasmina_generated", "lifecycle_v1": "kasmina_generated.lifecycle_v1"}
_names = (f"built_for_a_test_{number}" for number in itertools.count())


@dataclass(frozen=True)
class Package:
    """The modules of a generated package and the spec that it comes from."""

    spec: Spec
    lifecycle: Any
    guards: Any
    tables: Any
    machine: Any
    vector: Any

    def limits(self, **values: float) -> Any:
        """Return the vector limits of `Limits(**values)`."""
        limits = self.lifecycle.Limits(**values)
        return self.vector.VectorLimits(
            *(torch.tensor(getattr(limits, n), dtype=self.dtype(n)) for n in self.limit_names)
        )

    @property
    def limit_names(self) -> list[str]:
        """Return the limits in order."""
        return list(self.vector.VectorLimits._fields)

    @property
    def field_names(self) -> list[str]:
        """Return the context fields in order."""
        return list(self.vector.VectorContext._fields)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a field or a limit."""
        known = {**self.lifecycle.CONTEXT_FIELDS, **self.lifecycle.LIMIT_FIELDS}
        dtype: torch.dtype = getattr(torch, known[name].dtype)
        return dtype

    def context(self, rows: int, **columns: list[Any] | Tensor) -> Any:
        """Return a vector context of `rows` rows: the columns given, the defaults elsewhere."""
        return self.vector.VectorContext(
            *(
                torch.as_tensor(columns[name], dtype=self.dtype(name))
                if name in columns
                else torch.full((rows,), rule.default, dtype=self.dtype(name))
                for name, rule in self.lifecycle.CONTEXT_FIELDS.items()
            )
        )


def package(name: str, folder: Path) -> Package:
    """Return a machine of `SPECS`: the committed package, or one that is built below `folder`."""
    if name in COMMITTED:
        return _loaded(read_spec(SPECS[name]), COMMITTED[name])
    return built(SPECS[name], folder / name)


def built(spec: Path, directory: Path) -> Package:
    """Emit a spec, without proving it, into a directory and import what came out."""
    read = read_spec(spec)
    apply(changes(directory, render(read, "kasmina spec build")))
    return imported(read, directory)


def imported(spec: Spec, directory: Path) -> Package:
    """Import the package in a directory under a new name."""
    name = next(_names)
    found = spec_from_file_location(
        name, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    assert found is not None
    assert found.loader is not None
    sys.modules[name] = module_from_spec(found)
    found.loader.exec_module(sys.modules[name])
    return _loaded(spec, name)


def _loaded(spec: Spec, name: str) -> Package:
    parts = ("lifecycle", "guards", "tables", "machine", "vector")
    return Package(spec, *(importlib.import_module(f"{name}.{part}") for part in parts))

"""A lifecycle as the rest of the runtime sees it: one bundle around a generated package.

The runtime knows no state by name. What a state means to the data path stands in its attributes
(plane, trains, ...), what happens on an edge in its effects, and what a column of the state tensor
is for in its role; so a package that was built from another spec works as well.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from enum import IntEnum, IntFlag
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.lifecycle.loading import load_package

Scalar = float | int | bool
_Record = TypeVar("_Record", "Edge", "Column")


@dataclass(frozen=True, slots=True)
class Edge:
    """One way from a state to another; those of a generated package have the same fields."""

    index: int  # its number in every backend
    source: IntEnum
    event: IntEnum | None  # None where the edge re-arms a slot
    target: IntEnum
    priority: int
    effects: IntFlag
    urgent: bool  # passes although the state's min_epochs is not over
    recycle: bool
    guard_text: str  # as written, "" for none
    line: int  # of the spec


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the state tensor; those of a generated package have the same fields."""

    name: str
    dtype: str
    length: int  # 1 for a scalar
    default: Scalar
    role: str | None  # what the step keeps in it, if anything
    fields: tuple[str, ...]
    meaning: str


# What a step needs at least; for a spec that names no state file.
_MINIMAL_COLUMNS = (
    Column("state", "int8", 1, 0, "state", (), "The code of the state."),
    Column("epochs", "int16", 1, 0, "epochs", (), "Ticks since the state was entered; saturates."),
)


class UnknownName(KasminaError, LookupError):
    """A name that the lifecycle does not have."""

    def __init__(self, kind: str, name: object, known: Iterable[str], lifecycle: str) -> None:
        names = list(known)
        near = get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(
            f"the lifecycle {lifecycle!r} has no {kind} {name!r}; it has: "
            f"{', '.join(names) or 'none'}{hint}"
        )
        self.name = name


@dataclass(frozen=True, eq=False)
class Lifecycle:
    """A generated package, typed and with its parts under short names.

    Compared and hashed by identity; copying one gives the same one.
    """

    package: ModuleType = field(repr=False)
    name: str
    digest: str
    State: type[IntEnum]
    Event: type[IntEnum]
    Effect: type[IntFlag]
    initial: IntEnum
    edges: tuple[Edge, ...] = field(repr=False)
    guards: tuple[Callable[[Any, Any, int], bool], ...] = field(repr=False)
    columns: tuple[Column, ...] = field(repr=False)
    tables: Any = field(repr=False)  # the module of dense numpy tables
    Context: type[Any] = field(repr=False)
    Limits: type[Any] = field(repr=False)
    context_fields: Mapping[str, Any] = field(repr=False)
    limit_fields: Mapping[str, Any] = field(repr=False)
    VectorContext: type[Any] = field(repr=False)
    VectorLimits: type[Any] = field(repr=False)
    vector_step: Callable[..., Any] = field(repr=False)
    _tensors: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict, repr=False)
    _steps: dict[torch.device, Callable[..., Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def default(cls) -> Lifecycle:
        """The 11-state lifecycle of a seed that Kasmina ships."""
        return _built_in("kasmina_generated")

    @classmethod
    def v1(cls) -> Lifecycle:
        """The 5-state lifecycle of the earlier system."""
        return _built_in("kasmina_generated.lifecycle_v1")

    @classmethod
    def from_directory(cls, path: Path | str) -> Self:
        """A lifecycle that `kasmina spec build FILE --out DIR` wrote to `path`.

        Its modules are imported under names of their own, so that many packages, or one before and
        after an edit, live side by side. Raises `PackageError` where the directory holds no
        generated package, or one that was changed by hand.
        """
        return cls.from_package(load_package(Path(path)))

    @classmethod
    def from_package(cls, package: ModuleType) -> Self:
        """The bundle around an imported package."""
        lifecycle, vector = _part(package, "lifecycle"), _part(package, "vector")
        return cls(
            package=package,
            name=lifecycle.SPEC_NAME,
            digest=lifecycle.SPEC_DIGEST,
            State=lifecycle.State,
            Event=lifecycle.Event,
            Effect=lifecycle.Effect,
            initial=lifecycle.INITIAL,
            edges=tuple(_copied(Edge, edge) for edge in lifecycle.EDGES),
            guards=_part(package, "guards").GUARDS,
            columns=_columns(package),
            tables=_part(package, "tables"),
            Context=lifecycle.Context,
            Limits=lifecycle.Limits,
            context_fields=lifecycle.CONTEXT_FIELDS,
            limit_fields=lifecycle.LIMIT_FIELDS,
            VectorContext=vector.VectorContext,
            VectorLimits=vector.VectorLimits,
            vector_step=vector.step,
        )

    @cached_property
    def roles(self) -> Mapping[str, Column]:
        """The columns that the step itself keeps, by what they are for."""
        return {column.role: column for column in self.columns if column.role is not None}

    @cached_property
    def commands(self) -> tuple[IntEnum, ...]:
        """The events that somebody may ask for; the others happen by themselves at a tick."""
        return tuple(sorted(_part(self.package, "lifecycle").COMMANDS))

    @cached_property
    def moves_by_itself(self) -> NDArray[np.bool_]:
        """By state, whether a seed in it may move at a tick without a command."""
        by_itself = {edge.source for edge in self.edges if edge.event not in self.commands}
        return np.array([state in by_itself for state in self.State])

    @cached_property
    def edges_with_room(self) -> frozenset[int]:
        """Numbers of the edges that lead from outside into a capacity, and so ask for room."""
        capacities = getattr(self.tables, "CAPACITY_STATES", ())  # a spec may declare none
        return frozenset(
            edge.index
            for edge in self.edges
            if any(inside[edge.target] and not inside[edge.source] for inside in capacities)
        )

    def step_on(self, device: torch.device) -> Callable[..., Any]:
        """The step for rows on a device: the generated kernels where they can run, or `vector_step`.

        Raises `BackendError` where the environment demands kernels that cannot run.
        """
        if device not in self._steps:
            self._steps[device] = self._chosen_step(device)
        return self._steps[device]

    def _chosen_step(self, device: torch.device) -> Callable[..., Any]:
        from kasmina.kernels.backend import choose

        built = f"{self.package.__name__}.kernels"  # packages of earlier versions have none
        if choose(device).backend == "torch" or importlib.util.find_spec(built) is None:
            return self.vector_step
        step: Callable[..., Any] = importlib.import_module(f"{built}.step").step
        return step

    @cached_property
    def decide(self) -> Callable[..., Any]:
        """The part of the vector step that looks at one seed at a time: no capacities."""
        decide: Callable[..., Any] = _part(self.package, "vector").decide
        return decide

    @cached_property
    def machine(self) -> Any:
        """The module that configures a `transitions` machine."""
        return _part(self.package, "machine")

    def event(self, event: str | int) -> IntEnum:
        """The event of a name or number; raises `UnknownName` with the legal names."""
        try:
            return self.Event[event] if isinstance(event, str) else self.Event(event)
        except (KeyError, ValueError):
            raise UnknownName("event", event, self.Event.__members__, self.name) from None

    def attribute(self, name: str) -> type[IntEnum]:
        """The values of an attribute of the states, e.g. "plane"; raises `UnknownName`."""
        self._table_of(name)
        values: type[IntEnum] = getattr(_part(self.package, "lifecycle"), _camel(name))
        return values

    def attribute_values(self, name: str) -> Mapping[str, int]:
        """The codes of an attribute's values by name; raises `UnknownName`."""
        return {value.name: int(value) for value in self.attribute(name)}

    def attribute_code(self, name: str, value: str) -> int:
        """The code of one value of an attribute, e.g. "plane", "blend"; raises `UnknownName`."""
        values = self.attribute_values(name)
        if value not in values:
            raise UnknownName(f"value of {name}", value, values, self.name)
        return values[value]

    def attribute_of(self, name: str, codes: Tensor) -> Tensor:
        """The value of an attribute for each state code.

        Args:
            name: An attribute of the states, e.g. "plane".
            codes: State codes, of any integer dtype and shape.

        Returns:
            uint8 codes of the attribute's values, in the shape and on the device of `codes`.
        """
        return self.table(self._table_of(name), codes.device)[codes.long()]

    def plane_of(self, codes: Tensor) -> Tensor:
        """What the data path does in each state: uint8 codes of `attribute("plane")`."""
        return self.attribute_of("plane", codes)

    def table(self, name: str, device: torch.device) -> Tensor:
        """A generated table as a tensor; made once for each device, so do not write it."""
        key = (name, device)
        if key not in self._tensors:
            self._tensors[key] = torch.tensor(getattr(self.tables, name), device=device)
        return self._tensors[key]

    def _table_of(self, attribute: str) -> str:
        table = f"STATE_{attribute.upper()}"
        if not hasattr(self.tables, table):
            known = [name[6:].lower() for name in vars(self.tables) if name.startswith("STATE_")]
            raise UnknownName("attribute", attribute, known, self.name)
        return table

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # modules cannot be copied, and nothing here changes

    def __reduce__(self) -> tuple[Callable[[str], Lifecycle], tuple[str]]:
        """A pickle holds the name of a built-in lifecycle; raises `KasminaError` for another."""
        if self not in (Lifecycle.default(), Lifecycle.v1()):
            raise KasminaError(
                f"the lifecycle {self.name!r} was built elsewhere and cannot be pickled; pickle "
                "the model's state_dict(), or fold(model), or save the run with a checkpoint"
            )
        return _built_in, (self.package.__name__,)


@cache
def _built_in(package: str) -> Lifecycle:
    return Lifecycle.from_package(importlib.import_module(package))


def _part(package: ModuleType, name: str) -> Any:
    return importlib.import_module(f"{package.__name__}.{name}")


def _columns(package: ModuleType) -> tuple[Column, ...]:
    if importlib.util.find_spec(f"{package.__name__}.state") is None:
        return _MINIMAL_COLUMNS
    return tuple(_copied(Column, column) for column in _part(package, "state").COLUMNS)


def _copied(kind: type[_Record], record: Any) -> _Record:
    """A generated record as one of ours, by the names of its fields."""
    return kind(*(getattr(record, each.name) for each in fields(kind)))


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))

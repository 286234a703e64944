"""What a step reads besides the state: the measurements of every seed, and the limits."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.lifecycle.columns import InvalidUpdate, Rows, Values, numbers, row_index
from kasmina.lifecycle.spec import Lifecycle, Scalar, UnknownName


class RefusedValue(KasminaError, ValueError):
    """A measurement or a limit that the spec does not allow."""


class ContextTable:
    """One measurement of each context field for each of `n` seeds, as one tensor a field.

    A fresh table holds the defaults of the spec, which stand for "not measured". It belongs to the
    thread that steps.
    """

    def __init__(
        self, n: int, *, lifecycle: Lifecycle | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.lifecycle = lifecycle if lifecycle is not None else Lifecycle.default()
        self.n = n
        self._fields = {
            name: torch.full((n,), field.default, dtype=getattr(torch, field.dtype), device=device)
            for name, field in self.lifecycle.context_fields.items()
        }

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, field: str) -> Tensor:
        if field not in self._fields:
            raise UnknownName("context field", field, self._fields, self.lifecycle.name)
        return self._fields[field]

    def set(self, rows: Rows, field: str, values: Values) -> None:
        """Write the measurements of some rows.

        Args:
            rows: Row numbers, each at most once.
            field: A context field.
            values: One number for all rows, or a tensor or list [rows]. Out of the field's range
                they are clamped before a guard reads them; NaN and infinity mean what the spec says.

        Raises:
            RefusedValue: A value that the spec refuses; nothing was written.
        """
        column = self[field]
        index = row_index(rows, self.n, column.device)
        given = numbers(f"context field {field!r}", values, column.dtype, column.device)
        if given.ndim > 0 and given.shape != index.shape:
            raise InvalidUpdate(
                f"context field {field!r} takes one number for each of {len(index)} rows, or one "
                f"for all; it was given {list(given.shape)}"
            )
        given = self._representable(field, given).expand(len(index))
        _check_refused(self.lifecycle.context_fields[field], given, index)
        column[index] = given

    def reset(self, rows: Rows) -> None:
        """Give rows the defaults back, e.g. those of a slot that begins a new generation."""
        for name, column in self._fields.items():
            index = row_index(rows, self.n, column.device)
            column[index] = self.lifecycle.context_fields[name].default

    def row(self, row: int) -> Any:
        """The generated `Context` of one seed."""
        return self.lifecycle.Context(**{name: c[row].item() for name, c in self._fields.items()})

    def vector(self) -> Any:
        """The generated `VectorContext`; its tensors are the table's own."""
        return self.lifecycle.VectorContext(**self._fields)

    def to(self, device: torch.device | str) -> ContextTable:
        """Move the table, in place; returns itself."""
        self._fields = {name: column.to(device) for name, column in self._fields.items()}
        return self

    def _representable(self, field: str, given: Tensor) -> Tensor:
        """In the field's dtype; an integer is clamped first, so that it cannot wrap."""
        dtype = self._fields[field].dtype
        if dtype.is_floating_point or dtype == torch.bool:
            return given.to(dtype)
        return given.clamp(*self.lifecycle.context_fields[field].range).to(dtype)


def _check_refused(rule: Any, given: Tensor, rows: Tensor) -> None:
    """Raise `RefusedValue` where a value is one that the field's rule refuses."""
    refused = torch.zeros_like(given, dtype=torch.bool)
    if rule.nan == "refuse":
        refused |= given.isnan()
    if rule.infinity == "refuse":
        refused |= given.isinf()
    if not bool(refused.any()):
        return
    place = int(refused.nonzero()[0, 0])
    raise RefusedValue(
        f"context field {rule.name!r}, row {int(rows[place])}: {given[place].item()} is refused by "
        f"the spec; legal: {rule.dtype} from {rule.range[0]} to {rule.range[1]}"
    )


class LimitTable:
    """The limits in force, for the thread that steps.

    An override changes the tensors that earlier calls of `vector` gave, in place, so that it
    reaches compiled and captured steps and recompiles nothing.
    """

    def __init__(self, lifecycle: Lifecycle | None = None) -> None:
        self.lifecycle = lifecycle if lifecycle is not None else Lifecycle.default()
        self._limits = self.lifecycle.Limits()
        self._vectors: dict[torch.device, Any] = {}

    def __getitem__(self, name: str) -> Scalar:
        self._check_name(name)
        value: Scalar = getattr(self._limits, name)
        return value

    @property
    def limits(self) -> Any:
        """The generated `Limits` in force; immutable, so it can be kept."""
        return self._limits

    def as_dict(self) -> dict[str, Scalar]:
        """The limits in force by name."""
        return asdict(self._limits)

    def override(self, name: str, value: Scalar) -> None:
        """Change a limit from the next step on.

        Raises:
            UnknownName: No such limit; the message lists all.
            RefusedValue: Out of the declared range, which the message gives.
        """
        self._check_name(name)
        try:
            self._limits = replace(self._limits, **{name: value})
        except (TypeError, ValueError) as error:
            rule = self.lifecycle.limit_fields[name]
            raise RefusedValue(
                f"limit {name!r} cannot be {value!r}; legal: {rule.dtype} from {rule.range[0]} to "
                f"{rule.range[1]}"
            ) from error
        for vector in self._vectors.values():
            getattr(vector, name).fill_(self[name])

    def vector(self, device: torch.device | str = "cpu") -> Any:
        """The generated `VectorLimits`: one 0-d tensor a limit on the device."""
        where = torch.device(device)
        if where not in self._vectors:
            self._vectors[where] = self.lifecycle.VectorLimits(
                *(
                    torch.tensor(self[f.name], dtype=self._dtype(f.name), device=where)
                    for f in fields(self._limits)
                )
            )
        return self._vectors[where]

    def _dtype(self, name: str) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.lifecycle.limit_fields[name].dtype)
        return dtype

    def _check_name(self, name: str) -> None:
        if name not in self.lifecycle.limit_fields:
            raise UnknownName("limit", name, self.lifecycle.limit_fields, self.lifecycle.name)

"""What may be written into a column of the state tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kasmina.errors import KasminaError

if TYPE_CHECKING:
    from kasmina.lifecycle.spec import Column, Lifecycle

Values = Tensor | Sequence[float] | Sequence[int] | float | int
Rows = Tensor | Sequence[int] | slice | int

_COUNTERS = ("epochs", "generation", "history_count")
_CODES = ("state", "parent", "history")


class InvalidUpdate(KasminaError, ValueError):
    """An update that was refused as a whole; nothing of it was written."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; nothing was written")


@dataclass(frozen=True)
class ColumnRule:
    """The legal values of one column.

    A counter starts at 0, a column of codes holds codes of the table (or its own default, for
    "none"), and a float column that is named like a context field keeps to that field's range,
    and is finite where the field refuses infinity.
    """

    column: Column
    low: float
    high: float
    finite: bool
    codes: tuple[int, ...]  # () where every value in the range is legal

    @classmethod
    def of(cls, column: Column, lifecycle: Lifecycle) -> ColumnRule:
        """The rule that the spec implies for a column."""
        low, high, finite = _range(column, lifecycle)
        codes = tuple(int(state) for state in lifecycle.State)
        if column.role in ("parent", "history"):
            codes = (int(column.default), *codes)
        return cls(column, low, high, finite, codes if column.role in _CODES else ())

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the column's tensor."""
        dtype: torch.dtype = getattr(torch, self.column.dtype)
        return dtype

    def shape(self, rows: int) -> tuple[int, ...]:
        """The shape of the column's values for so many rows."""
        return (rows,) if self.column.length == 1 else (rows, self.column.length)

    def default(self, rows: int, device: torch.device) -> Tensor:
        """The column as it is before anything was written."""
        return torch.full(self.shape(rows), self.column.default, dtype=self.dtype, device=device)

    def prepare(self, values: Values, rows: Tensor) -> Tensor:
        """The values as they can be written: checked, in the column's dtype, one entry a row."""
        given = numbers(f"column {self.column.name!r}", values, self.dtype, rows.device)
        expected = self.shape(len(rows))
        if given.ndim > 0 and tuple(given.shape) != expected:
            raise InvalidUpdate(
                f"column {self.column.name!r} takes values of shape {list(expected)} for "
                f"{len(rows)} rows, or one number for all; it was given {list(given.shape)}"
            )
        given = given.expand(expected)
        self._check_values(given, rows)
        return given.to(self.dtype)

    def _check_values(self, given: Tensor, rows: Tensor) -> None:
        bad = self._illegal(given)
        if not bool(bad.any()):
            return
        place = tuple(bad.nonzero()[0].tolist())
        raise InvalidUpdate(
            f"column {self.column.name!r}, row {int(rows[place[0]])}: {given[place].item()} is not "
            f"legal; {self.legal}"
        )

    def _illegal(self, given: Tensor) -> Tensor:
        """Which entries may not be written; a NaN is illegal only where infinity is."""
        if self.codes:
            return ~torch.isin(given, torch.tensor(self.codes, device=given.device))
        outside = (given < self.low) | (given > self.high)
        return outside | ~torch.isfinite(given) if self.finite else outside

    @property
    def legal(self) -> str:
        """The legal values in words."""
        if self.codes:
            return f"it holds codes of states: {', '.join(map(str, self.codes))}"
        return f"{self.column.dtype} from {self.low} to {self.high}" + (
            ", no NaN" if self.finite else ""
        )


def numbers(what: str, values: Values, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values as a tensor of any dtype that can become `dtype` without another meaning."""
    try:
        given = torch.as_tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidUpdate(f"{what} takes {_name(dtype)} numbers, not {values!r}") from error
    floats = given.is_floating_point() and not dtype.is_floating_point
    bools = (given.dtype == torch.bool) != (dtype == torch.bool)
    if given.numel() > 0 and (floats or bools):  # an empty list has no dtype of its own
        raise InvalidUpdate(
            f"{what} is {_name(dtype)}, its new values are {_name(given.dtype)}; convert them"
        )
    return given


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _range(column: Column, lifecycle: Lifecycle) -> tuple[float, float, bool]:
    if column.dtype == "bool":
        return 0, 1, False
    if not column.dtype.startswith("float"):
        limits = torch.iinfo(getattr(torch, column.dtype))
        return 0 if column.role in _COUNTERS else limits.min, limits.max, False
    field = lifecycle.context_fields.get(column.name)
    if field is None:
        return float("-inf"), float("inf"), False
    low, high = field.range
    return low, high, field.infinity == "refuse"


def row_index(rows: Rows, count: int, device: torch.device) -> Tensor:
    """Row numbers as an int64 tensor [M]; every row exists and occurs once.

    Args:
        rows: One row, a slice, or a list or tensor of rows.
        count: How many rows there are.
        device: Where the result lives.
    """
    if isinstance(rows, slice):
        return torch.arange(*rows.indices(count), device=device)
    index = torch.as_tensor([rows] if isinstance(rows, int) else rows, device=device)
    if index.numel() == 0:
        return index.reshape(-1).long()
    _check_rows(index, count)
    return index.long()


def _check_rows(index: Tensor, count: int) -> None:
    if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise InvalidUpdate(
            f"rows must be a list of integers, not {_name(index.dtype)} of shape {list(index.shape)}"
        )
    outside = (index < 0) | (index >= count)
    if bool(outside.any()):
        raise InvalidUpdate(
            f"there is no row {int(index[outside][0])}; rows go from 0 to {count - 1}"
        )
    ordered = index.sort().values
    again = ordered[1:] == ordered[:-1]
    if bool(again.any()):
        raise InvalidUpdate(f"row {int(ordered[1:][again][0])} is named more than once")

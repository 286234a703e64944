"""Taking over rows that an older spec has stored.

A state dict says by its digest under which spec its rows were stored. Where the lifecycle declares
a migration from that digest, the generated table maps every old code to a new one, so that a column
of codes is one gather; the other columns are copied, dropped or begin at their defaults. Nothing is
guessed: what is not declared is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.lifecycle.columns import ColumnRule
from kasmina.lifecycle.ring import relay
from kasmina.lifecycle.spec import Lifecycle


class MigrationError(KasminaError, ValueError):
    """A state dict that no declared migration takes over; nothing was converted."""


def migrate(state_dict: Mapping[str, Any], to: Lifecycle | None = None) -> dict[str, Any]:
    """Return a state dict of another spec as one of `to`.

    Args:
        state_dict: What `StateTensor.state_dict` gave, under an older spec; it is not changed.
        to: The lifecycle to migrate to; the default one if not given.

    Returns:
        A new state dict, which a `StateTensor` of `to` and of as many rows loads. Epochs and
        generation are kept; states, parents and histories are mapped; columns that the older spec
        did not have hold their defaults.

    Raises:
        MigrationError: The lifecycle declares no migration from this digest, the columns are not
            those of the older spec, or a value does not fit its new column.
    """
    lifecycle = to if to is not None else Lifecycle.default()
    if state_dict.get("digest") == lifecycle.digest:
        columns = {name: column.clone() for name, column in state_dict["columns"].items()}
        return {**state_dict, "columns": columns}
    migration = _migrations(lifecycle).get(str(state_dict.get("digest")))
    if migration is None:
        raise MigrationError(
            f"a state dict of spec {state_dict.get('spec')!r} cannot become one of "
            f"{lifecycle.name!r}: {advice(state_dict.get('digest'), lifecycle)}"
        )
    moved = _Move(migration, lifecycle, state_dict.get("columns", {})).columns()
    return {"spec": lifecycle.name, "digest": lifecycle.digest, "columns": moved}


def advice(digest: object, lifecycle: Lifecycle) -> str:
    """What to do with rows that were stored under another digest, in a sentence."""
    known = _migrations(lifecycle)
    if str(digest) in known:
        old = known[str(digest)]
        return (
            f"a migration from {old.spec!r} version {old.version} is declared: load what "
            "kasmina.lifecycle.migrate(state_dict, to=lifecycle) gives"
        )
    declared = ", ".join(f"{m.digest} ({m.spec} version {m.version})" for m in known.values())
    return (
        f"it was stored under digest {digest}, this lifecycle has {lifecycle.digest}, and "
        f"migrations are declared from: {declared or 'none'}. Keep the old spec as a file beside "
        f"the new one, add to its migrations {{from: {{file: OLD.yaml, digest: {digest}}}, states: "
        "{OLD: NEW, ...}, meaning: ...}, and build again"
    )


def _migrations(lifecycle: Lifecycle) -> dict[str, Any]:
    """The generated records by digest; a spec may declare none."""
    return {m.digest: m for m in getattr(lifecycle.tables, "MIGRATIONS", ())}


class _Move:
    """One migration at work on the columns of one state dict."""

    def __init__(self, migration: Any, lifecycle: Lifecycle, stored: Mapping[str, Tensor]) -> None:
        self._from = f"{migration.spec!r} version {migration.version}"
        self._codes = torch.tensor([-1, *migration.codes.tolist()])  # -1, for none, stays -1
        self._old = {column.name: column for column in migration.columns}
        self._sources = {column.becomes: column for column in migration.columns}
        self._rules = [ColumnRule.of(column, lifecycle) for column in lifecycle.columns]
        self._stored = stored
        self._check_columns()
        self._rows = len(next(iter(stored.values())))

    def columns(self) -> dict[str, Tensor]:
        """The columns of the new lifecycle."""
        moved = {rule.column.name: self._column(rule) for rule in self._rules}
        return {name: tensor.contiguous() for name, tensor in moved.items()}

    def _check_columns(self) -> None:
        """Hold that the stored columns are those of the older spec."""
        faults = [f"column {name!r} is unknown there" for name in self._stored.keys() - self._old]
        for name, column in self._old.items():
            fault = _column_fault(column, self._stored.get(name))
            faults += [f"column {name!r} {fault}"] if fault else []
        if not faults:
            sizes = {len(column) for column in self._stored.values()}
            faults += [f"its columns have {sorted(sizes)} rows"] if len(sizes) > 1 else []
        if faults:
            raise MigrationError(
                f"the state dict is none of {self._from}, nothing was converted:\n"
                + "\n".join(f"- {fault}" for fault in sorted(faults))
            )

    def _column(self, rule: ColumnRule) -> Tensor:
        source = self._sources.get(rule.column.name)
        if source is None:
            return rule.default(self._rows, torch.device("cpu"))
        if rule.column.role in ("history", "history_count"):
            return self._turned(rule)
        stored = self._stored[source.name].cpu()
        if rule.column.role in ("state", "parent"):
            return self._mapped(source.name, stored, rule)
        return self._fitted(source, self._entries(source, stored, rule), rule)

    def _mapped(self, name: str, codes: Tensor, rule: ColumnRule) -> Tensor:
        """Codes of the older spec as codes of the new one: one gather."""
        places = codes.long() + 1
        inside = (places >= 0) & (places < len(self._codes))
        new = self._codes[places.where(inside, 0)]
        bad = ~inside | ((new < 0) & ((codes != -1) | (rule.column.role == "state")))
        if bool(bad.any()):
            place = tuple(bad.nonzero()[0].tolist())
            raise MigrationError(
                f"column {name!r}, row {place[0]}: {int(codes[place])} is the code of no state of "
                f"{self._from}; nothing was converted"
            )
        return new.to(rule.dtype)

    def _turned(self, rule: ColumnRule) -> Tensor:
        """The histories, or their counts, laid out for the length of the new ring."""
        roles = {column.role: column for column in self._old.values()}
        rules = {each.column.role: each for each in self._rules}
        ring, count = (self._stored[roles[r].name].cpu() for r in ("history", "history_count"))
        codes = self._mapped(roles["history"].name, _two(ring), rules["history"])
        highest = torch.iinfo(rules["history_count"].dtype).max
        turned, counted = relay(codes, count, rules["history"].column.length, highest)
        chosen = turned if rule.column.role == "history" else counted
        return chosen.reshape(rule.shape(self._rows)).to(rule.dtype)

    def _entries(self, source: Any, stored: Tensor, rule: ColumnRule) -> Tensor:
        """The stored values in the new column's shape; entries that have names go by them."""
        names = rule.column.fields
        if not (source.fields and names) or source.fields == names:
            return stored
        moved = rule.default(self._rows, stored.device).to(stored.dtype)
        kept = [name for name in names if name in source.fields]
        there = [source.fields.index(name) for name in kept]
        _two(moved)[:, [names.index(name) for name in kept]] = _two(stored)[:, there]
        return moved

    def _fitted(self, source: Any, values: Tensor, rule: ColumnRule) -> Tensor:
        """Values in the new dtype; a float may round, nothing else may change."""
        moved = values.to(rule.dtype)
        if values.is_floating_point():
            wrong = moved.isinf() & ~values.isinf()
        else:
            wrong = moved.to(values.dtype) != values
            if rule.dtype.is_floating_point:  # back from the largest float may saturate
                wrong |= moved.double() != values.double()
        if bool(wrong.any()):
            place = tuple(wrong.nonzero()[0].tolist())
            raise MigrationError(
                f"column {source.name!r}, row {place[0]}: {values[place].item()} does not fit into "
                f"column {rule.column.name!r}, which is {rule.column.dtype}; nothing was converted"
            )
        return moved.clone()


def _column_fault(column: Any, found: Tensor | None) -> str | None:
    """Why a stored tensor is not what the older spec stored; None where it is."""
    if not isinstance(found, Tensor):
        return "is missing" if found is None else f"is a {type(found).__name__}, not a tensor"
    rest = () if column.length == 1 else (column.length,)
    if found.ndim != 1 + len(rest) or tuple(found.shape[1:]) != rest:
        wanted = ", ".join(map(str, ("rows", *rest)))
        return f"has shape {list(found.shape)}, declared is [{wanted}]"
    if found.dtype != getattr(torch, column.dtype):
        return f"is {found.dtype}, declared is {column.dtype}"
    return None


def _two(column: Tensor) -> Tensor:
    """A view of a column as [rows, entries]."""
    return column if column.ndim > 1 else column[:, None]

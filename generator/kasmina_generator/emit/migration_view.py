"""What the templates fill in of migrations."""

from __future__ import annotations

from dataclasses import dataclass

from kasmina_generator.emit.layout import call, literal
from kasmina_generator.model import ColumnMove, Migration


@dataclass(frozen=True, slots=True)
class MigrationView:
    """How stored rows are taken over, with the source of each stored column."""

    migration: Migration
    columns: list[str]


def view_migration(migration: Migration) -> MigrationView:
    """Return what `tables.py` shows of a migration."""
    return MigrationView(migration, [_stored(move) for move in migration.columns])


def _stored(move: ColumnMove) -> str:
    column = move.column
    values = (column.name, column.dtype, column.length, column.role)
    names = [literal(name) for name in column.fields]
    fields = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
    return call("StoredColumn", [*map(literal, values), fields, literal(move.new)], 3, ",")

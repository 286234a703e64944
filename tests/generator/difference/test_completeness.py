"""Nothing that a spec holds can change without a finding: every field of every record, one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import kasmina_spec
from kasmina_generator import model, read_spec, record_model
from kasmina_generator.difference import compare
from kasmina_generator.digest import digest_of
from kasmina_generator.expression import Truth
from kasmina_generator.kernels import model as kernels
from kasmina_generator.messages import model as messages
from kasmina_generator.model import Group, Spec
from kasmina_generator.vocabulary import BUILT_IN_GROUPS
from tests.generator.difference.lifts import lift
from tests.generator.specs import MACHINES

# Of a column that an older spec stores, only what its values are read by belongs to a migration.
ELSEWHERE = ("default", "meaning", "place")


# Of kernels: names that are keys, codes that follow from states, and lists of records with none.
KERNELS = (
    *(f".kernels.{name}.{field}" for name in ("mixing", "joint") for field in ("name", "codes")),
    *(f".kernels.kinds[1].{field}" for field in ("maps", "options")),
)
# Records that are held alone and mutated inside; a formula changes as a whole.
_INSIDE = (
    *(model.Place, model.StateSchema, model.Column, kernels.KernelSet, kernels.StateSet),
    *(messages.MessageSchema, messages.MessagePart),
)


@dataclass(frozen=True)
class Mutant:
    """A spec with one field of one record changed."""

    name: str  # the record's class and the field
    where: str
    spec: Spec


def other(value: Any) -> Any:
    """Return another value of about the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return 0.5 if value != 0.5 else 0.25
        case str():
            return value + "_"
        case None:
            return 7
        case tuple() if value and not isinstance(value[0], str):
            return value[:-1]
        case tuple():
            return (*value, "more")
        case _:
            return Truth(False)


def mutants(record: Any, where: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (class.field, path, changed record) for each field at any depth."""
    for field in dataclasses.fields(record):
        value, path = getattr(record, field.name), f"{where}.{field.name}"
        if isinstance(value, _INSIDE):
            changes = mutants(value, path)
            yield from ((name, at, replace(record, **{field.name: v})) for name, at, v in changes)
            continue
        yield (
            f"{type(record).__name__}.{field.name}",
            path,
            replace(record, **{field.name: other(value)}),
        )
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for index, item in enumerate(value):
                for name, at, changed in mutants(item, f"{path}[{index}]"):
                    items = (*value[:index], changed, *value[index + 1 :])
                    yield name, at, replace(record, **{field.name: items})


def every(spec: Spec) -> list[Mutant]:
    """Return every mutant of a spec but those that no file can give."""
    found = [Mutant(*parts) for parts in mutants(spec)]
    return [mutant for mutant in found if not _derived(spec, mutant.where)]


def _derived(spec: Spec, where: str) -> bool:
    """Say whether a field follows from others, which are mutated themselves."""
    built_in = [f".groups[{i}]." for i, g in enumerate(spec.groups) if g.name in BUILT_IN_GROUPS]
    elsewhere = any(f".column.{name}" in where for name in ELSEWHERE)
    code_of_initial = where == ".columns.columns[0].default"
    return where.startswith((*built_in, *KERNELS)) or elsewhere or code_of_initial


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """The lift."""
    return lift(tmp_path_factory.mktemp("lift") / "lift")


def test_the_lift_has_one_of_everything(spec: Spec) -> None:
    """Every field of every record of the model is mutated somewhere."""
    everything = {**vars(model), **vars(record_model), **vars(kernels), **vars(messages)}
    found = [item for item in everything.values() if isinstance(item, type)]
    records = [item for item in found if dataclasses.is_dataclass(item)]
    records.remove(kernels.Variant)  # made of a kind
    fields = {f"{r.__name__}.{f.name}" for r in records for f in dataclasses.fields(r)}
    nested = {
        "Spec.columns",
        "ColumnMove.column",
        "Spec.kernels",
        "KernelSet.mixing",
        "KernelSet.joint",
        "Spec.message_file",
        "MessageSchema.envelope",
    }
    nested |= {"StateSet.name", "StateSet.codes"}  # their own fields stand for them
    nested |= {name for name in fields if name.endswith(".place")}
    assert fields - nested == {mutant.name for mutant in every(spec)}
    assert Group in records


def test_every_field_of_every_record_is_covered_by_a_rule(spec: Spec) -> None:
    """Each mutant gives a finding, of a rule of its own and not of the net below."""
    silent = [
        mutant.where
        for mutant in every(spec)
        if not [c for c in compare(spec, mutant.spec).changes if c.rule != "digest"]
    ]
    assert silent == [
        ".record_files[0].digest",
        ".kernels.digest",
        ".message_file.digest",
        ".digest",
    ]
    (change,) = compare(spec, replace(spec, digest="0" * 64)).changes
    assert (change.rule, change.kind) == ("digest", "behaviour")


def test_what_moves_the_digest_is_at_least_a_change_of_tables(spec: Spec) -> None:
    """And the rules find it without the net; what is a change of source only leaves it alone."""
    for mutant in every(spec):
        if mutant.where.endswith(".digest"):
            continue  # it is what is asked here
        changed = replace(mutant.spec, digest=digest_of(mutant.spec))
        comparison = compare(spec, changed)
        moved = changed.digest != spec.digest
        assert comparison.reaches("table") or not moved, mutant.where
        assert "digest" not in {change.rule for change in comparison.changes}, mutant.where


@pytest.mark.parametrize(
    "path",
    [kasmina_spec.LIFECYCLE, kasmina_spec.LIFECYCLE_V1, *sorted(MACHINES.glob("*.yaml"))],
    ids=lambda path: path.stem,
)
def test_a_spec_does_not_differ_from_itself(path: Path) -> None:
    """Nothing is found, and stored rows are read as they are."""
    if "kasmina/state@" in path.read_text():
        return
    comparison = compare(read_spec(path), read_spec(path))
    assert (comparison.changes, comparison.readable) == ((), "as they are")

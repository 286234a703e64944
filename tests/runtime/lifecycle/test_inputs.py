"""What a step reads: measurements and limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kasmina.lifecycle import ContextTable, InvalidUpdate, LimitTable, RefusedValue, UnknownName

_INF = float("inf")


@pytest.fixture
def context() -> ContextTable:
    """Four seeds of which nothing was measured."""
    return ContextTable(4)


def test_a_fresh_table_holds_the_defaults(context: ContextTable) -> None:
    """Nothing measured reads as the spec says, for one seed and for all."""
    assert context.row(2) == context.lifecycle.Context()
    for name, field in context.lifecycle.context_fields.items():
        assert context[name].tolist() == [field.default] * 4
    assert context.vector()._fields == tuple(context.lifecycle.context_fields)
    assert len(context) == 4


def test_measurements_are_written_by_row(context: ContextTable) -> None:
    """Lists, slices and one number for all; the table's tensors are the step's."""
    vector = context.vector()
    context.set([3, 1], "evaluation_score", [0.25, -1.0])
    context.set(slice(None), "stability", 0.5)
    assert vector.evaluation_score.tolist() == [-_INF, -1.0, -_INF, 0.25]
    assert vector.stability.tolist() == [0.5] * 4


def test_one_row_is_normalised_as_guards_see_it(context: ContextTable) -> None:
    """Rounded, NaN replaced, clamped."""
    context.set(0, "reconstruction_loss", float("nan"))
    context.set(0, "stability", 7.0)
    row = context.row(0)
    assert (row.reconstruction_loss, row.stability) == (_INF, 1.0)


def test_rows_of_a_new_generation_forget_what_was_measured(context: ContextTable) -> None:
    """`reset` gives rows the defaults back and leaves the others."""
    context.set([0, 1], "improvement", [1.0, 2.0])
    context.reset([1])
    assert context["improvement"].tolist() == [1.0, -_INF, -_INF, -_INF]


@pytest.mark.parametrize("value", [_INF, -_INF])
def test_a_refused_value_is_named_with_field_and_row(context: ContextTable, value: float) -> None:
    """Nothing is written."""
    with pytest.raises(RefusedValue) as caught:
        context.set([2, 3], "alpha", [0.5, value])
    assert str(caught.value) == (
        f"context field 'alpha', row 3: {value} is refused by the spec; legal: float32 from 0.0 "
        "to 1.0"
    )
    assert context["alpha"].sum() == 0


def test_unknown_fields_and_rows_are_refused(context: ContextTable) -> None:
    """Both messages say what there is."""
    with pytest.raises(UnknownName, match=r"no context field 'alfa'.*did you mean 'alpha'"):
        context.set(0, "alfa", 1.0)
    with pytest.raises(InvalidUpdate, match="there is no row 4; rows go from 0 to 3"):
        context.set(4, "alpha", 1.0)


def test_values_must_match_the_rows(context: ContextTable) -> None:
    """A list of another length is refused before anything is written."""
    with pytest.raises(InvalidUpdate) as caught:
        context.set([0, 1], "alpha", [1.0, 0.5, 0.25])
    assert str(caught.value) == (
        "context field 'alpha' takes one number for each of 2 rows, or one for all; it was given "
        "[3]; nothing was written"
    )


def test_a_table_moves_between_devices(context: ContextTable) -> None:
    """In place, as the state tensor does."""
    assert context.to("meta") is context
    assert context["alpha"].device.type == "meta"


def test_limits_begin_with_the_spec_s_defaults() -> None:
    """Rounded to their dtypes, in every form."""
    table = LimitTable()
    assert table.limits == table.lifecycle.Limits()
    assert table["max_training"] == 64
    assert table.as_dict()["max_training"] == 64
    assert table.vector().max_training.dtype == torch.int32
    assert table["max_reconstruction_loss"] == torch.tensor(0.7).item()


def test_an_override_reaches_tensors_that_were_handed_out() -> None:
    """A captured step reads the new value from the same memory."""
    table = LimitTable()
    vector = table.vector()
    table.override("max_training", 3)
    assert (int(vector.max_training), table["max_training"]) == (3, 3)
    assert table.vector() is vector


@pytest.mark.parametrize(
    ("name", "value", "legal"),
    [
        ("max_training", 0, "int32 from 1 to 1000000"),
        ("max_training", 2.5, "int32 from 1 to 1000000"),
        ("min_stability", 1.5, "float32 from 0.0 to 1.0"),
        ("min_stability", float("nan"), "float32 from 0.0 to 1.0"),
        ("min_stability", "high", "float32 from 0.0 to 1.0"),
    ],
)
def test_an_illegal_override_gives_the_range_and_changes_nothing(
    name: str, value: Any, legal: str
) -> None:
    """The old value stays in force."""
    table = LimitTable()
    before = table.as_dict()
    with pytest.raises(RefusedValue) as caught:
        table.override(name, value)
    assert str(caught.value) == f"limit {name!r} cannot be {value!r}; legal: {legal}"
    assert table.as_dict() == before


def test_an_unknown_limit_is_refused_with_a_hint() -> None:
    """Reading and writing."""
    table = LimitTable()
    with pytest.raises(UnknownName, match=r"no limit 'max_train'.*did you mean 'max_training'"):
        table.override("max_train", 3)
    with pytest.raises(UnknownName, match="no limit 'nothing'"):
        table["nothing"]

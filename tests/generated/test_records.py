"""Classes of a records file: checked when made, written as JSON, and read back exactly."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import kasmina_generated.observation as observed
from kasmina_generated.observation import KindOffer, Observation, SeedTable, SiteObservation
from kasmina_generator.build import build, user_target
from tests.generated.test_committed import MYPY, tool
from tests.generator.specs import DOOR
from tests.generator.test_records_file import VISITS
from tests.helpers import ROOT

COUNTS = st.integers(0, 1 << 70)
NUMBERS = st.floats()
TEXTS = st.text(max_size=5)
OFFERS = st.builds(KindOffer, TEXTS, COUNTS, COUNTS)
SITES = st.builds(
    SiteObservation,
    path=TEXTS,
    placement=TEXTS,
    first_row=COUNTS,
    seeds=COUNTS,
    kinds=st.lists(OFFERS, max_size=2).map(tuple),
    rewinds=COUNTS,
    embargoed=st.booleans(),
    gradient_ratio=st.floats(min_value=0) | st.just(math.nan),
    bottleneck=st.floats(min_value=0) | st.just(math.nan),
)


def column(n: int, dtype: str, elements: st.SearchStrategy[Any] | None = None) -> Any:
    """A column of n entries."""
    return arrays(dtype, n, elements=elements)


@st.composite
def tables(draw: st.DrawFn) -> SeedTable:
    """Some seeds."""
    n = draw(st.integers(0, 4))
    return SeedTable(
        state=draw(column(n, "int8", st.integers(0, 127))),
        epochs=draw(column(n, "int16", st.integers(0, 32767))),
        generation=draw(column(n, "int32", st.integers(0, (1 << 31) - 1))),
        alpha=draw(column(n, "float32", st.floats(0, 1, width=32))),
        holds_blueprint=draw(column(n, "bool")),
        mean=draw(column(n, "float32")),
        deviation=draw(column(n, "float32", st.floats(0, width=32) | st.just(math.nan))),
        nonfinite=draw(column(n, "int64", st.integers(0, (1 << 63) - 1))),
    )


OBSERVATIONS = st.builds(
    Observation,
    epoch=COUNTS,
    epochs=st.none() | COUNTS,
    step=COUNTS,
    train_loss=NUMBERS,
    validation_loss=NUMBERS,
    validation_metric=NUMBERS,
    parameters=COUNTS,
    budget=st.none() | COUNTS,
    sites=st.lists(SITES, max_size=2).map(tuple),
    seeds=tables(),
    commands=st.lists(TEXTS, max_size=2).map(tuple),
    busy=COUNTS,
)


def offer() -> KindOffer:
    """A kind."""
    return KindOffer("mlp", 10, 20)


def site(**changes: Any) -> SiteObservation:
    """A site."""
    values = {"path": "a", "placement": "parallel", "first_row": 0, "seeds": 2}
    rest = {
        "kinds": (offer(),),
        "rewinds": 0,
        "embargoed": False,
        "gradient_ratio": math.nan,
        "bottleneck": math.nan,
    }
    return SiteObservation(**{**values, **rest, **changes})


def table(**changes: Any) -> SeedTable:
    """Two seeds."""
    columns = {
        field.name: np.zeros(2, field.of) for field in observed.FIELDS["SeedTable"] if field.of
    }
    return SeedTable(**{**columns, **changes})


def observation(**changes: Any) -> Observation:
    """An observation of one site with two seeds."""
    values: dict[str, Any] = {
        "epoch": 1,
        "epochs": None,
        "step": 10,
        "train_loss": 0.5,
        "validation_loss": 0.25,
        "validation_metric": math.nan,
        "parameters": 100,
        "budget": 400,
        "sites": (site(),),
        "seeds": table(),
        "commands": ("cancel", "grow"),
        "busy": 0,
    }
    return Observation(**{**values, **changes})


def through_json(plain: object) -> Any:
    """Write and read as strictly as the event log does."""
    return json.loads(json.dumps(plain, allow_nan=False))


def bits(record: Any) -> Any:
    """A record with every number to the bit, so that NaN and -0.0 compare as well."""
    if dataclasses.is_dataclass(record):
        fields = dataclasses.fields(record)
        return (type(record), *(bits(getattr(record, field.name)) for field in fields))
    if isinstance(record, tuple):
        return tuple(map(bits, record))
    if isinstance(record, np.ndarray):
        return record.dtype, [bits(each) for each in record.tolist()]
    if isinstance(record, float):
        return "NaN" if math.isnan(record) else record.hex()
    return type(record), record


@given(OBSERVATIONS)
def test_json_and_back_is_exact(seen: Observation) -> None:
    """Each value and each dtype; NaN, infinities, minus nought and integers beyond 64 bits."""
    again = Observation.from_plain(through_json(seen.to_plain()))
    assert bits(again) == bits(seen)
    assert again.to_plain() == seen.to_plain()


def test_what_is_written() -> None:
    """Columns are lists, numbers that JSON lacks are the strings that the event log uses."""
    mean = np.array([math.nan, -math.inf], np.float32)
    seen = observation(train_loss=math.inf, seeds=table(mean=mean))
    plain = seen.to_plain()
    assert plain["train_loss"] == "inf"
    assert plain["validation_metric"] == "nan"
    assert plain["epochs"] is None
    assert plain["seeds"]["mean"] == ["nan", "-inf"]
    assert plain["seeds"]["holds_blueprint"] == [False, False]
    assert plain["sites"][0]["kinds"] == [{"name": "mlp", "parameters": 10, "flops": 20}]
    assert plain["commands"] == ["cancel", "grow"]
    rest = seen.to_plain(without=("seeds", "sites"))
    assert rest == {name: plain[name] for name in plain if name not in ("seeds", "sites")}


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    """A producer may take a count or a mean from an array."""
    seen = observation(step=np.int64(3), train_loss=np.float32(0.1), busy=np.bool_(False))
    plain = through_json(seen.to_plain())
    assert (plain["step"], plain["train_loss"], plain["busy"]) == (3, 0.10000000149011612, False)


def test_an_integer_may_stand_for_a_number() -> None:
    """Other writers of JSON drop the `.0`; a float32 column rounds to the nearest."""
    plain = observation().to_plain()
    plain["train_loss"] = 2
    plain["seeds"]["mean"] = [1, 0.1]
    plain["seeds"]["deviation"] = [1e300, "inf"]
    again = Observation.from_plain(plain)
    assert isinstance(again.train_loss, float)
    assert again.seeds.mean.tolist() == [1.0, 0.10000000149011612]
    assert again.seeds.deviation.tolist() == [math.inf, math.inf]


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ((), 3, "Observation: expected a mapping, found 3"),
        (("epoch",), "1", "Observation.epoch: expected an integer, found '1'"),
        (("epoch",), True, "Observation.epoch: expected an integer, found True"),
        (("epoch",), 1.0, "Observation.epoch: expected an integer, found 1.0"),
        (("epoch",), -1, "Observation.epoch: -1 is out of range; give a number from 0 to inf"),
        (("epoch",), None, "Observation.epoch: None means nothing here; give a value"),
        (("train_loss",), "none", "Observation.train_loss: expected a number, \"nan\", \"inf\" or \"-inf\", found 'none'"),
        (("train_loss",), [1], "Observation.train_loss: expected a number, \"nan\", \"inf\" or \"-inf\", found [1]"),
        (("commands",), "cancel", "Observation.commands: expected a list, found 'cancel'"),
        (("commands", 1), 7, "Observation.commands[1]: expected text, found 7"),
        (("sites", 0, "embargoed"), 0, "Observation.sites[0].embargoed: expected true or false, found 0"),
        (("sites", 0, "rewinds"), -2, "Observation.sites[0].rewinds: -2 is out of range; give a number from 0 to inf"),
        (("sites", 0, "kinds", 0), [], "Observation.sites[0].kinds[0]: expected a mapping, found []"),
        (("sites", 0, "path"), ["long"] * 20, "Observation.sites[0].path: expected text, found ['long', 'long', 'long', 'long', 'long', 'long', 'long', ..."),
        (("sites", 0, "kind"), [], "Observation.sites[0]: unknown field 'kind'; allowed: path, placement, first_row, seeds, kinds, rewinds, embargoed, gradient_ratio, bottleneck; did you mean 'kinds'?"),
        (("seeds", "state"), [0, 128], "Observation.seeds.state[1]: 128 is out of range; give a number from 0 to 127"),
        (("seeds", "state"), [0, 0.0], "Observation.seeds.state[1]: expected an integer, found 0.0"),
        (("seeds", "alpha"), [0.0, "nan"], "Observation.seeds.alpha[1]: NaN means nothing here; give a number"),
        (("seeds", "alpha"), [0.0, 1.5], "Observation.seeds.alpha[1]: 1.5 is out of range; give a number from 0.0 to 1.0"),
        (("seeds", "holds_blueprint"), [0, 1], "Observation.seeds.holds_blueprint[0]: expected true or false, found 0"),
        (("seeds", "epochs"), [1], "SeedTable.epochs: has 1 entries, and 'state' has 2; both have one for each of 'seeds'"),
    ],
)  # fmt: skip
def test_what_is_read_is_checked(where: tuple[str | int, ...], value: object, message: str) -> None:
    """The message says where; nothing is guessed or left over."""
    plain: Any = {"root": observation().to_plain()}
    inner, path = plain, ("root", *where)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValueError) as raised:
        Observation.from_plain(plain["root"])
    assert str(raised.value) == message


def test_missing_fields_are_named() -> None:
    """All of them."""
    with pytest.raises(ValueError) as raised:
        KindOffer.from_plain({"name": "mlp"})
    assert str(raised.value) == "KindOffer: lacks 'parameters', 'flops'"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": -1}, "Observation.step: -1 is out of range; give a number from 0 to inf"),
        ({"step": None}, "Observation.step: None means nothing here; give a value"),
    ],
)
def test_what_is_made_is_checked(changes: dict[str, Any], message: str) -> None:
    """A producer's mistake shows where it is made, not in the log's reader."""
    with pytest.raises(ValueError) as raised:
        observation(**changes)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": np.zeros(2)}, "SeedTable.alpha: expected an array float32 [seeds], found float64 (2,)"),
        ({"alpha": np.zeros((2, 1), np.float32)}, "SeedTable.alpha: expected an array float32 [seeds], found float32 (2, 1)"),
        ({"alpha": [0.0, 0.0]}, "SeedTable.alpha: expected an array float32 [seeds], found list (2,)"),
        ({"alpha": np.array([0, 2], np.float32)}, "SeedTable.alpha[1]: 2.0 is out of range; give a number from 0.0 to 1.0"),
        ({"alpha": np.array([0, math.nan], np.float32)}, "SeedTable.alpha[1]: NaN means nothing here; give a number"),
        ({"state": np.array([0, -1], np.int8)}, "SeedTable.state[1]: -1 is out of range; give a number from 0 to 127"),
        ({"mean": np.zeros(3, np.float32)}, "SeedTable.mean: has 3 entries, and 'state' has 2; both have one for each of 'seeds'"),
    ],
)  # fmt: skip
def test_columns_are_checked(changes: dict[str, Any], message: str) -> None:
    """Dtype, axis, range and length."""
    with pytest.raises(ValueError) as raised:
        table(**changes)
    assert str(raised.value) == message


def test_records_are_frozen_and_compare() -> None:
    """Those without columns by value; the others are themselves, since arrays have no one truth."""
    assert offer() == offer()
    assert len({offer(), offer()}) == 1
    seen = observation()
    assert seen != observation()
    assert seen in (seen,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.epoch = 2  # type: ignore[misc]
    assert not hasattr(seen, "__dict__")
    assert bits(copy.deepcopy(seen)) == bits(seen)
    assert dataclasses.replace(seen, epoch=7).epoch == 7


def test_fields_are_data() -> None:
    """For a log's reader and for a controller that learns: name, type, unit and meaning."""
    assert list(observed.FIELDS) == ["KindOffer", "SiteObservation", "SeedTable", "Observation"]
    for name, fields in observed.FIELDS.items():
        record: Any = observed.RECORDS[name]
        declared = [field.name for field in dataclasses.fields(record)]
        assert [field.name for field in fields] == declared
        assert all(field.meaning for field in fields)
    told = {field.name: field for field in observed.FIELDS["Observation"]}
    assert told["train_loss"].unit == "nats"
    assert told["budget"].none == "There is no limit."
    assert told["sites"].of == "SiteObservation"
    state = observed.FIELDS["SeedTable"][0]
    assert (state.type, state.of, state.axis, state.range) == ("column", "int8", "seeds", (0, 127))
    assert list(observed.AXES) == ["seeds"]
    assert (observed.SCHEMA_NAME, observed.SCHEMA_VERSION) == ("observation", 2)


NOTES = '''
schema: kasmina/records@1
name: notes
version: 1
meaning: Without a column.
records:
  Note:
    meaning: Quotes """ do no harm.
    fields:
      self: {type: int, unit: "1", meaning: A "name" that Python uses.}
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a door, with two records files that have nothing to do with seeds."""
    folder = tmp_path_factory.mktemp("door")
    (folder / "visits.yaml").write_text(VISITS)
    (folder / "notes.yaml").write_text(NOTES)
    (folder / "door.yaml").write_text(f"{DOOR}records: [visits.yaml, notes.yaml]\n")
    build([user_target(folder / "door.yaml", folder / "package")])
    return folder / "package"


def loaded(package: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import one module of a package by its file: it needs none of the others."""
    found = spec_from_file_location(f"alone_{name}", package / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, module)
    found.loader.exec_module(module)
    return module


def test_other_records(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here knows what it is that is recorded."""
    visits = loaded(package, "visits", monkeypatch)
    visitor = {"name": "Ada", "age": None, "height": "nan", "known": True}
    plain = {
        "number": -3,
        "weather": None,
        "visitors": [visitor],
        "remarks": ["quiet"],
        "guest": None,
        "traffic": {"people": [3, 0], "wind": [0.1, "nan"], "rain": [True, False]},
    }
    day = visits.Day.from_plain(plain)
    assert (day.visitors[0].name, day.guest) == ("Ada", None)
    assert day.traffic.people.dtype == np.int16
    assert day.to_plain()["traffic"]["wind"] == [0.10000000149011612, "nan"]
    assert bits(visits.Day.from_plain(day.to_plain())) == bits(day)
    assert visits.Visitor("Ada", 1, 1.0, True) == visits.Visitor("Ada", 1, 1.0, True)
    with pytest.raises(ValueError, match=r"Day\.guest\.height: 4\.0 is out of range"):
        visits.Day.from_plain({**plain, "guest": {**visitor, "height": 4.0}})


def test_odd_names_and_words(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prose is only ever text, and a field may have a name that Python uses elsewhere."""
    notes = loaded(package, "notes", monkeypatch)
    assert notes.Note(3).self == 3
    assert notes.Note.__doc__ == "Quotes ''' do no harm."
    assert notes.FIELDS["Note"][0].meaning == 'A "name" that Python uses.'


def test_other_records_are_linted_formatted_and_typed(package: Path, tmp_path: Path) -> None:
    """What comes out of any records file is as clean as what is committed."""
    files = (package / "visits.py", package / "notes.py")
    settings = ("--config", ROOT / "pyproject.toml")
    assert tool("ruff", "check", *settings, *files) == ""
    assert tool("ruff", "format", "--check", *settings, *files) == ""
    (tmp_path / "mypy.ini").write_text(MYPY)
    settings = ("--config-file", tmp_path / "mypy.ini")
    assert tool("mypy", *settings, "--cache-dir", tmp_path / "cache", *files) == ""


def test_without_columns_there_is_no_numpy(package: Path) -> None:
    """Whoever only has scalars waits for nothing."""
    assert "numpy" not in (package / "notes.py").read_text()

"""The whole model as JSON, and every other form by its name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import kasmina_spec
from kasmina_generator.emit.export import EXPORTS
from kasmina_generator.emit.tree import as_json
from kasmina_generator.reader import read_spec
from tests.generator.specs import MACHINES

FILES = [kasmina_spec.LIFECYCLE, MACHINES / "orders.yaml", MACHINES / "traffic_light.yaml"]


def loaded(path: Path) -> dict[str, Any]:
    """Return the model of a spec as JSON gives it; Python's own NaN and Infinity are refused."""

    def refuse(word: str) -> float:
        raise AssertionError(word)

    model: dict[str, Any] = json.loads(as_json(read_spec(path)), parse_constant=refuse)
    return model


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_left_out(path: Path) -> None:
    """Every table, in order, with as many rows as the model has."""
    spec, model = read_spec(path), loaded(path)
    assert model["schema"] == "kasmina/model@1"
    assert (model["name"], model["version"], model["digest"]) == (
        spec.name,
        spec.version,
        spec.digest,
    )
    for table in ("states", "groups", "events", "context", "limits", "effects", "edges"):
        names = [getattr(row, "name", None) for row in getattr(spec, table)]
        assert [row.get("name") for row in model[table]] == names
    assert [state["place"] for state in model["states"]] == [str(s.place) for s in spec.states]


def test_infinities_are_words() -> None:
    """JSON has no numbers for them."""
    (loss,) = (f for f in loaded(FILES[0])["context"] if f["name"] == "reconstruction_loss")
    assert (loss["high"], loss["nan"], loss["default"]) == ("inf", "inf", "inf")
    assert float(loss["high"]) == math.inf


def test_guards_are_trees_and_text() -> None:
    """As written, as they are read, and in English."""
    edge = next(e for e in loaded(MACHINES / "orders.yaml")["edges"] if e["event"] == "settle")
    assert edge["text"] == "paid / price >= deposit or paid - price >= -0.5"
    assert edge["guard"]["node"] == "any"
    quotient = edge["guard"]["operands"][0]["left"]
    assert (quotient["node"], quotient["operator"], quotient["dtype"]) == (
        "arithmetic",
        "/",
        "float32",
    )
    assert quotient["left"] == {"node": "field", "name": "paid", "dtype": "float32"}
    assert edge["prose"].startswith("(`paid` over `price`) is at least `deposit`")


def test_attributes_and_roles_are_mappings() -> None:
    """By name."""
    model = loaded(kasmina_spec.LIFECYCLE)
    assert model["states"][2]["attributes"]["plane"] == "shadow"
    assert model["properties"][0]["arguments"] == {"to": "FOSSILIZED", "through": "EVALUATING"}


@pytest.mark.parametrize("name", EXPORTS)
def test_every_form_of_every_machine(name: str) -> None:
    """Ends with one line end, and is the same each time."""
    for path in FILES:
        spec = read_spec(path)
        text = EXPORTS[name](spec)
        assert text.endswith("\n")
        assert text == EXPORTS[name](spec)
        assert "\0" not in text

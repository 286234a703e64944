"""The kernels of a spec as people and programs read them."""

from __future__ import annotations

import json
from pathlib import Path

from kasmina_generator.emit.export import EXPORTS
from tests.generator.kernels.fans import WITH_FANS, kernels
from tests.generator.specs import DOOR, read


def test_kernels_as_text(tmp_path: Path) -> None:
    """States by name, files with what they compute, and each kernel."""
    kernels(tmp_path)
    text = EXPORTS["kernels"](read(tmp_path, WITH_FANS))
    head, *files = text.rstrip("\n").split("\n\n")
    assert head == (
        "fans version 4: What the fans of a door compute.\n"
        "mixing (lamp is lit or dark): SHUT, OPEN, LOCKED\n"
        "joint (lamp is lit): OPEN\n"
        "36 kernels in 6 files"
    )
    assert len(files) == 6
    assert files[3] == (
        "kernels/inline_blade_tanh_backward.py, from kernels/inline_backward.py.jinja\n"
        "    hidden = f(turn) * lean, f tanh\n"
        "    parameters: turn_weight, turn_bias, lean_weight, out_weight, out_bias\n"
        "    inline blade_tanh backward replace float32\n"
        "    inline blade_tanh backward replace float16\n"
        "    inline blade_tanh backward residual float32\n"
        "    inline blade_tanh backward residual float16"
    )
    assert files[4].split("\n")[1] == "    each element = x * width"


def test_a_spec_without_kernels(tmp_path: Path) -> None:
    """Says so."""
    assert EXPORTS["kernels"](read(tmp_path, DOOR)) == "door: names no kernels file\n"


def test_kernels_as_json(tmp_path: Path) -> None:
    """Formulas are trees whose nodes name their kind."""
    kernels(tmp_path)
    model = json.loads(EXPORTS["json"](read(tmp_path, WITH_FANS)))
    blade, vent = model["kernels"]["kinds"]
    assert blade["formula"] == {
        "node": "arithmetic",
        "operator": "*",
        "left": {
            "node": "call",
            "function": "f",
            "operand": {"node": "variable", "name": "turn"},
        },
        "right": {"node": "variable", "name": "lean"},
    }
    assert vent["text"] == "x * width"
    assert model["kernels"]["mixing"]["codes"] == [0, 1, 2]

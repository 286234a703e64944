"""Whatever the file holds, the reader answers with a spec or with findings, never otherwise."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kasmina_spec
from kasmina_generator import SpecErrors, check_spec, read_spec
from tests.generator.specs import DOOR, MACHINES

YAML_MARKS = "{}[]:,-?&*!|>'\"%@`#~\\ \n\tabc01.<=\u00e9\ud7ff\ufeff\x85\u2028"
FEW = settings(max_examples=50, deadline=None)  # each reads a whole file
WORDS = [
    "SHUT", "OPEN", "usable", "terminal", "lock", "push", "wind", "gale", "calm", "true", "no",
    "0", "1", "-1", "1e9", ".inf", ".nan", "float32", "int32", "bool", "unbounded", "unknown",
    "[]", "{}", "[SHUT]", "{SHUT: 1}", "''", "&a b", "*a", "!!int 3", "timed_out", "a < b", "",
]  # fmt: skip


def answers(data: bytes) -> None:
    """Read a file of these bytes; findings have a place in it and say something."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_bytes(data)
        try:
            spec = read_spec(path)
        except SpecErrors as errors:
            assert errors.findings
            for finding in errors.findings:
                assert finding.place.file == "any.yaml"
                assert finding.place.line >= 1
                assert finding.place.column >= 1
                assert finding.what
        else:
            check_spec(spec)


@settings(FEW)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Bytes that are hardly ever text."""
    answers(data)


@settings(FEW)
@given(st.text(alphabet=st.sampled_from(YAML_MARKS), max_size=120))
def test_any_yaml_marks(text: str) -> None:
    """Text that is full of YAML's own characters."""
    answers(text.encode("utf-8", "replace"))


@settings(FEW)
@given(st.data())
def test_any_slip_of_the_hand(data: st.DataObject) -> None:
    """The door with a piece cut out, doubled or replaced by something else."""
    start = data.draw(st.integers(0, len(DOOR)))
    end = min(len(DOOR), start + data.draw(st.integers(0, 40)))
    piece = data.draw(st.sampled_from(WORDS) | st.text(max_size=6) | st.just(DOOR[start:end] * 2))
    answers((DOOR[:start] + piece + DOOR[end:]).encode("utf-8", "replace"))


@settings(FEW)
@given(st.sampled_from(range(DOOR.count("\n"))), st.sampled_from(range(DOOR.count("\n"))))
def test_any_order_of_lines(first: int, second: int) -> None:
    """The door with two lines exchanged."""
    lines = DOOR.split("\n")
    lines[first], lines[second] = lines[second], lines[first]
    answers("\n".join(lines).encode())


@settings(FEW)
@given(st.text(max_size=80))
def test_any_guard(text: str) -> None:
    """Guards of any text."""
    quoted = "'" + text.replace("'", "''") + "'"
    answers(DOOR.replace("guard: calm", f"guard: {quoted}").encode("utf-8", "replace"))


@settings(FEW)
@given(st.text(alphabet=st.sampled_from("()+-*/<>=!. 0123 and or not wind gale alarm calm epochs,[]x"),
               max_size=60))  # fmt: skip
def test_any_formula(text: str) -> None:
    """Guards of the characters that guards are made of."""
    answers(DOOR.replace("guard: calm", f'guard: "{text}"').encode())


@pytest.mark.parametrize("path", [kasmina_spec.LIFECYCLE, MACHINES / "orders.yaml"])
def test_words_exchanged_in_whole_machines(path: Path) -> None:
    """Forty machines in which one word became another, by a fixed seed."""
    source = path.read_text().replace("state:", "# state:", 1)
    dice = random.Random(7)
    words = source.split(" ")
    for _ in range(40):
        spoilt = list(words)
        spoilt[dice.randrange(len(words))] = dice.choice(words)
        answers(" ".join(spoilt).encode())


def test_reading_and_checking_is_quick() -> None:
    """Far below the 2 s that check and build may take; measured 0.04 s on 2 shared cores."""
    start = time.process_time()
    assert check_spec(read_spec(kasmina_spec.LIFECYCLE)) == []
    assert time.process_time() - start < 1.0

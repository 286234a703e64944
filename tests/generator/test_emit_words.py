"""How predicates are packed into words."""

from __future__ import annotations

from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.emit.words import MOST_BITS, Words, plan_words
from kasmina_generator.model import Spec
from tests.generated.shapes import SHAPES
from tests.generator.specs import DOOR, MACHINES, read, spoil

BUILT_IN = [kasmina_spec.LIFECYCLE, kasmina_spec.LIFECYCLE_V1]
FOREIGN = [MACHINES / "orders.yaml", MACHINES / "traffic_light.yaml"]


def shape(name: str, folder: Path) -> Spec:
    """Read one of the machines that only tests need."""
    return read(folder, SHAPES[name])


def planned(spec: Spec) -> Words:
    """Return the packing of a machine that has one."""
    words = plan_words(spec)
    assert words is not None
    return words


@pytest.mark.parametrize("path", [*BUILT_IN, *FOREIGN], ids=lambda path: path.stem)
def test_what_meets_in_a_state_has_bits_of_its_own(path: Path) -> None:
    """In the word and among the gathered bits."""
    words = planned(read_spec(path))
    positions = [words.position(predicate) for predicate in words.slots]
    assert len(set(positions)) == len(positions)
    assert max(positions) < words.gathered_bits
    for state, predicates in words.reads.items():
        slots = [words.slots[p] for p in predicates] + list(words.clock_slots[state].values())
        assert len(set(slots)) == len(slots)
        assert max(slots, default=0) < words.width <= MOST_BITS


def test_commands_keep_their_bits_where_there_is_room() -> None:
    """The event mask of the default lifecycle is used as it is."""
    spec = read_spec(kasmina_spec.LIFECYCLE)
    words = planned(spec)
    assert words.command_masks({event.name: event.bit for event in spec.events}) == [(0b111, 0)]


def test_commands_share_slots_where_there_is_none(tmp_path: Path) -> None:
    """8 commands here and 8 tests there make a word of 8 bits, gathered in two layers."""
    words = planned(shape("crowded", tmp_path))
    assert (words.width, words.depth, words.folds) == (8, 2, (8,))


def test_a_deep_machine_gathers_in_64_bits(tmp_path: Path) -> None:
    """6 states of 8 tests each."""
    words = planned(shape("deep", tmp_path))
    assert (words.width, words.depth, words.dtype) == (8, 6, "int64")
    assert words.folds == (32, 16, 8)


@pytest.mark.parametrize("depth", range(1, 18))
def test_the_folds_reach_every_layer(depth: int) -> None:
    """Shifting and or-ing lays each layer onto the first."""
    words = Words({}, {}, {}, {}, single=0, shared=2, depth=depth, width=2, epochs=0)
    for layer in range(depth):
        bits = 0b10 << 2 * layer
        for shift in words.folds:
            bits |= bits >> shift
        assert bits & 0b11 == 0b10


def test_too_many_predicates_give_no_word(tmp_path: Path) -> None:
    """13 in one state; and more gathered bits than 64."""
    assert plan_words(shape("wide", tmp_path)) is None


def test_a_long_clock_is_compared_like_a_field(tmp_path: Path) -> None:
    """The table by epoch would get too large; the word has the comparison instead."""
    short = planned(read(tmp_path, DOOR))
    assert short.epochs == 10
    assert "epochs" not in str(list(short.slots))
    long = planned(read(tmp_path, spoil(DOOR, "max_epochs: 9", "max_epochs: 3000")))
    assert long.epochs == 0
    assert "'epochs'" in str(list(long.slots))


def test_the_legend_names_every_bit(tmp_path: Path) -> None:
    """For whoever reads tables.py."""
    legend = dict(planned(read(tmp_path, DOOR)).legend())
    assert legend[0] == ["lock"]
    assert legend[2] == ["`wind` is below `gale`"]
    assert legend[3] == ["epochs alone, see _CLOCKS"]

"""What a kernels file means: the kinds, and which kernels there are of them.

Invariants: names are unique; every formula reads all of its kind's maps (or `x`) and nothing else;
options are functions; the states of a set are those of the spec that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from kasmina_generator.kernels.formula import Formula, chosen, variables
from kasmina_generator.model import Place

Files = Literal["separate", "together"]
Direction = Literal["forward", "backward"]
Bias = Literal["bias", "no bias"]

INPUT = "x"  # what an element by element formula calls the input
OUT = "out"  # the last map of a kind with hidden units


@dataclass(frozen=True, slots=True)
class StateSet:
    """The states whose `attribute` has one of `values`, as their codes."""

    name: str
    attribute: str
    values: tuple[str, ...]
    codes: tuple[int, ...]
    meaning: str
    place: Place

    @property
    def mask(self) -> int:
        """Return the codes as bits."""
        return sum(1 << code for code in self.codes)


@dataclass(frozen=True, slots=True)
class Placement:
    """How chunks stand to the input, in which modes results enter, and whether `out` has a bias."""

    name: str
    files: Files  # a file for each direction, or one for both
    modes: tuple[str, ...]
    out: Bias
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class Map:
    """`<name>_weight` [hidden, d_in] and, where there is one, `<name>_bias` [hidden]."""

    name: str
    bias: bool


@dataclass(frozen=True, slots=True)
class Option:
    """A function that is chosen when a kind is used."""

    name: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind: with `maps`, a formula of its hidden units; without, one of each element."""

    name: str
    maps: tuple[Map, ...]
    formula: Formula  # calls options by their names
    text: str
    options: tuple[Option, ...]
    meaning: str
    place: Place

    def variants(self) -> Iterator[Variant]:
        """Yield every choice of the options."""
        for choices in product(*(option.choices for option in self.options)):
            by_name = dict(zip((o.name for o in self.options), choices, strict=True))
            name = "_".join([self.name, *choices])
            yield Variant(name, self, tuple(by_name.items()), chosen(self.formula, by_name))


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind with its options chosen: one text."""

    name: str
    kind: Kind
    options: tuple[tuple[str, str], ...]
    formula: Formula

    @property
    def elementwise(self) -> bool:
        """Whether it computes element by element, without hidden units."""
        return not self.kind.maps

    def parameters(self, out: Bias) -> tuple[str, ...]:
        """Return the names of the stacked parameters, in order, where `out` has a bias or not."""
        if self.elementwise:
            return tuple(name for name in variables(self.formula) if name != INPUT)
        inner = (
            f"{map_.name}_{part}"
            for map_ in self.kind.maps
            for part in ("weight", "bias")
            if part == "weight" or map_.bias
        )
        return (*inner, f"{OUT}_weight", *([f"{OUT}_bias"] if out == "bias" else []))


@dataclass(frozen=True, slots=True)
class KernelSet:
    """A kernels file; `digest` covers all but the prose, the codes of the states included."""

    name: str
    version: int
    meaning: str
    mixing: StateSet
    joint: StateSet
    placements: tuple[Placement, ...]
    dtypes: tuple[str, ...]
    kinds: tuple[Kind, ...]
    file: str
    digest: str
    place: Place

    def variants(self) -> Iterator[Variant]:
        """Yield every text of every kind."""
        for kind in self.kinds:
            yield from kind.variants()

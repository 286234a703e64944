"""Rules on the kernels file: which kernels there are and what they compute."""

from __future__ import annotations

from collections.abc import Iterator

from kasmina_generator.difference.matching import Pair, Row
from kasmina_generator.difference.records import Found
from kasmina_generator.difference.rule import Rule, added, changed, differs, removed

_REBUILT = "its kernels are generated"
_GONE = "its kernels are removed, and what asks for them fails"
_FILE = "kernels file"


def _formula(pair: Pair) -> Iterator[Found]:
    for old, new in pair.both("kind"):
        if old.record.formula != new.record.formula:
            yield differs(new.subject, "formula", old.record.text, new.record.text, old, new)


def _text(pair: Pair) -> Iterator[Found]:
    for old, new in pair.both("kind"):
        same = old.record.formula == new.record.formula
        if same and old.record.text != new.record.text:
            yield differs(new.subject, "formula", old.record.text, new.record.text, old, new)


def _maps(row: Row) -> object:
    return [f"{m.name} {'with' if m.bias else 'without'} bias" for m in row.record.maps]


def _options(row: Row) -> object:
    return [f"{o.name}: {' or '.join(o.choices)}" for o in row.record.options]


KERNELS = (
    Rule("kernels_added", "table", "the spec names a kernels file", "its kernels are generated",
         added(_FILE)),
    Rule("kernels_removed", "behaviour", "the spec names its kernels file no more", _GONE,
         removed(_FILE)),
    Rule("kernels_version", "table", "the kernels file has another name, version or file name",
         "the generated modules say so", changed(_FILE, "name", "version", "file")),
    Rule("kernels_dtypes", "table", "there are kernels for other dtypes",
         "values of a dtype are computed elsewhere, or refused", changed(_FILE, "dtypes")),
    Rule("kernel_states", "behaviour", "other states count as mixing or as joint",
         "what is mixed in, or what gets gradients, changes",
         changed("kernel states", "attribute", "values")),  # a state's own attribute and code are told there
    Rule("placement_added", "table", "a placement is new", _REBUILT, added("placement", _FILE)),
    Rule("placement_removed", "behaviour", "a placement is gone", _GONE,
         removed("placement", _FILE)),
    Rule("placement", "behaviour", "a placement has other files, modes or a last map of another form",
         "what calls its kernels must follow", changed("placement", "files", "modes", "out")),
    Rule("kind_added", "table", "a kind is new", _REBUILT, added("kind", _FILE)),
    Rule("kind_removed", "behaviour", "a kind is gone", _GONE, removed("kind", _FILE)),
    Rule("kind_maps", "behaviour", "a kind has other maps, and so other parameters",
         "parameters that were stored do not fit", changed("kind", "maps", read=_maps)),
    Rule("kind_options", "behaviour", "a kind has other options",
         "texts by these names are gone or new", changed("kind", "options", read=_options)),
    Rule("kind_formula", "behaviour", "a kind computes something else",
         "the same parameters give other values", _formula),
    Rule("kind_text", "source", "a kind's formula is written otherwise and means the same",
         "generated text is the same", _text),
)  # fmt: skip

"""Reading kinds: of a kernels file, or one that a user writes into their own code."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kasmina_generator.document import Mapping, Node, Scalar, Unusable, describe, parse_document
from kasmina_generator.finding import Log
from kasmina_generator.kernels.formula import Call, Formula, parts, variables
from kasmina_generator.kernels.functions import FUNCTIONS
from kasmina_generator.kernels.model import INPUT, OUT, Kind, Map, Option
from kasmina_generator.kernels.reading import read_formula
from kasmina_generator.model import Place
from kasmina_generator.record import Record, named_record
from kasmina_generator.vocabulary import RECORDS, Keys, fault_of_name

MOST_MAPS = 4  # each holds a tile of weights in registers
MOST_CHOICES = 16
_BIAS = {"bias": True, "no bias": False}
_TAKEN = frozenset({INPUT, OUT, *FUNCTIONS})
# What kernels call their own tensors; a parameter of an element stands beside these.
_TENSORS = frozenset(
    [
        *("alpha", "codes", "count", "counts", "g", "gx", "incoming", "kinds", "maps", "measures"),
        *("nonfinite", "order", "out", "partial", "pool", "result", "rows", "selection"),
        *("chunk", "exact", "flow", "pulled", "weights"),
    ]
)
_PREFIXES = ("g_", "v_", "o_", "sum_", "to_")  # of what kernels make of parameters


def read_kinds(top: Record) -> Iterator[Kind]:
    """Yield the kinds of a kernels file; faults go to the log."""
    entries = list(top.table("kinds", "kind"))
    if not entries and isinstance(top.node("kinds"), Mapping):
        top.fault("kinds", "is empty; declare a kind")
    texts: dict[str, str] = {}
    for name, node in entries:
        _check_lower(top.log, "kind", name)
        kind = read_kind(name, node, top.log)
        if kind:
            _check_texts(kind, texts, top.log)
            yield kind


def kind_of_text(name: str, text: str) -> Kind:
    """Return the kind that a user has written, as `{maps: {up: bias}, hidden: tanh(up)}`, say.

    Args:
        name: The kind's name; messages say `<name>:line:column`.
        text: What would stand under that name in a kernels file, the meaning aside.

    Raises:
        SpecErrors: Everything that is wrong with it.
    """
    log = Log()
    node = parse_document(text, name, log)
    place = Place(name, 1, 1)
    fault = fault_of_name(name, False, frozenset())
    if fault:
        log.add(place, f"kind {name!r} {fault}")
    kind = read_kind(Scalar(name, False, place), node, log, meaning=name)
    log.raise_if_any()
    assert kind is not None
    return kind


def read_kind(name: Scalar, node: Node, log: Log, meaning: str = "") -> Kind | None:
    """Return one kind; None, with faults in `log`, where the entry is none.

    Args:
        name: Its name.
        node: What stands under it.
        log: Takes the faults.
        meaning: What it means where the entry need not say so.
    """
    elementwise = isinstance(node, Mapping) and any(
        k.text == "elementwise" for k, _ in node.entries
    )
    keys = RECORDS["element_kind" if elementwise else "map_kind"]
    if meaning:  # a user's own has a docstring already
        keys = Keys(tuple(key for key in keys.required if key != "meaning"), keys.optional)
    record = named_record(log, "kind", name, node, keys)
    if record is None:
        return None
    maps = () if elementwise else tuple(_maps(record))
    options = tuple(_options(record)) if "options" in record else ()
    meaning = meaning or record.text("meaning")
    scalar = record.scalar("elementwise" if elementwise else "hidden", "a formula")
    names = None if elementwise else [m.name for m in maps]
    formula = _formula(record, scalar, names, options) if scalar else None
    if formula is None or scalar is None:
        return None
    text = " ".join(scalar.text.split())
    kind = Kind(name.text, maps, formula, text, options, meaning, name.place)
    _check_use(record, scalar, kind)
    return kind


def _formula(
    record: Record, scalar: Scalar, names: Collection[str] | None, options: tuple[Option, ...]
) -> Formula | None:
    functions = (*FUNCTIONS, *(option.name for option in options))
    return read_formula(scalar, record.label, names, functions, record.log)


def _maps(record: Record) -> Iterator[Map]:
    what = f"{record.label}: map"
    entries = list(record.table("maps", what, _TAKEN))
    if isinstance(record.node("maps"), Mapping) and not 1 <= len(entries) <= MOST_MAPS:
        record.fault("maps", f"{len(entries)} maps; a kind has 1 to {MOST_MAPS}")
    for name, node in entries:
        _check_lower(record.log, what, name)
        if isinstance(node, Scalar) and node.text in _BIAS:
            yield Map(name.text, _BIAS[node.text])
        else:
            found = describe(node)
            said = f"{what} {name.text!r}: expected 'bias' or 'no bias', found {found}"
            if not isinstance(node, Unusable):
                record.log.add(node.place, said)
            yield Map(name.text, True)


def _options(record: Record) -> Iterator[Option]:
    what = f"{record.label}: option"
    entries = list(record.table("options", what, _TAKEN))
    given = record.node("options")
    if not isinstance(given, Mapping):
        return
    keys = Keys((), tuple(name.text for name, _ in entries))
    inner = Record(record.log, f"{record.label}: options", given, keys)
    for name, node in entries:
        _check_lower(record.log, what, name)
        found = inner.names(name.text)
        for choice in found:
            if choice.text not in FUNCTIONS:
                said = f"{what} {name.text!r}: unknown function {choice.text!r}"
                record.log.add(choice.place, said, allowed=tuple(FUNCTIONS), given=choice.text)
        if not 1 <= len(found) <= MOST_CHOICES and not record.log.has(node.place):
            said = f"{what} {name.text!r}: {len(found)} choices; an option has 1 to {MOST_CHOICES}"
            record.log.add(node.place, said)
        yield Option(name.text, tuple(choice.text for choice in found))


def _check_lower(log: Log, what: str, name: Scalar) -> None:
    if name.text != name.text.lower():
        log.add(name.place, f"{what} {name.text!r} is not in lower case")


def _check_use(record: Record, scalar: Scalar, kind: Kind) -> None:
    """Hold that a formula reads everything that is declared for it."""
    read = variables(kind.formula)
    called = {part.function for part in parts(kind.formula) if isinstance(part, Call)}
    for map_ in kind.maps:
        if map_.name not in read:
            what = f"{record.label}: the formula does not read map {map_.name!r}; drop the map"
            record.log.add(_declared(record, "maps", map_.name), what)
    for option in kind.options:
        if option.name not in called:
            what = f"{record.label}: the formula does not call option {option.name!r}; drop it"
            record.log.add(_declared(record, "options", option.name), what)
    if not kind.maps:
        for name in sorted(set(read) - {INPUT}):
            fault = fault_of_name(name, False, _TENSORS | _TAKEN)
            if fault is None and name.startswith(_PREFIXES):
                fault = f"begins with {' or '.join(_PREFIXES)}, as tensors of kernels do; choose another"
            if fault:
                record.log.add(scalar.place, f"{record.label}: parameter {name!r} {fault}")
    if not kind.maps and INPUT not in read:
        what = f"{record.label}: the formula does not read the input; call it '{INPUT}'"
        record.log.add(scalar.place, what)
    if not kind.maps and not set(read) - {INPUT}:
        what = f"{record.label}: the formula has no parameter; name one, as in x * scale"
        record.log.add(scalar.place, what)


def _declared(record: Record, key: str, name: str) -> Place:
    """Return where a name stands in the mapping at `key`."""
    node = record.node(key)
    assert isinstance(node, Mapping)
    return next(found.place for found, _ in node.entries if found.text == name)


def _check_texts(kind: Kind, taken: dict[str, str], log: Log) -> None:
    """Hold that no two kinds, with their options chosen, give modules of one name."""
    for variant in kind.variants():
        if variant.name in taken:
            what = (
                f"kind {kind.name!r} gives text {variant.name!r}, as {taken[variant.name]!r} does"
            )
            log.add(kind.place, f"{what}; choose another name")
        taken.setdefault(variant.name, kind.name)

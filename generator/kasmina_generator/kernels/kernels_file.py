"""Reading a kernels file: which states mix, which placements, dtypes and kinds there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kasmina_generator.digest import digest_of
from kasmina_generator.document import Mapping, Node, Unusable, describe, load_document
from kasmina_generator.finding import Log
from kasmina_generator.kernels.kind import read_kinds
from kasmina_generator.kernels.model import Bias, Files, KernelSet, Placement, StateSet
from kasmina_generator.model import Attribute, Spec
from kasmina_generator.record import Record, named_record
from kasmina_generator.records_file import MOST_VERSION
from kasmina_generator.state_file import check_schema, read_name
from kasmina_generator.vocabulary import KERNELS_SCHEMA, RECORDS

PLACEMENTS = ("inline", "parallel")  # there are templates for these
MODES = ("replace", "residual")
DTYPES = ("float32", "float16", "bfloat16")
FILES: tuple[Files, ...] = ("separate", "together")
BIASES: tuple[Bias, ...] = ("bias", "no bias")
LARGEST_CODE = 62  # kernels ask for a state by its bit in an int64


def read_kernels(top: Record, path: Path, spec: Spec) -> KernelSet | None:
    """Return the kernels file that a spec names, which lies beside it; None, with faults.

    Args:
        top: The spec's record, which has `kernels`.
        path: The spec's file.
        spec: What was read of it: its attributes and states.
    """
    file = top.file_beside("kernels", path)
    return read_kernels_file(file, spec, top.log) if file else None


def read_kernels_file(path: Path, spec: Spec, log: Log) -> KernelSet | None:
    """Return the kernels in the file at `path`; None, with faults in `log`, if it has none."""
    node = load_document(path, log)
    if not isinstance(node, Mapping):
        _refuse(node, log)
        return None
    top = Record(log, "kernels file", node, RECORDS["kernels_file"])
    if not check_schema(top, KERNELS_SCHEMA):
        return None
    states = _states(top)
    mixing, joint = (_state_set(states, name, spec, top) for name in RECORDS["kernel_states"].all)
    kernels = KernelSet(
        name=read_name(top),
        version=top.integer("version", 1, MOST_VERSION, default=1),
        meaning=top.text("meaning"),
        mixing=mixing,
        joint=joint,
        placements=tuple(_placements(top)),
        dtypes=_chosen(top, "dtypes", DTYPES),
        kinds=tuple(read_kinds(top)),
        file=path.name,
        digest="",
        place=top.place("name"),
    )
    return replace(kernels, digest=digest_of(kernels))


def _refuse(node: Node, log: Log) -> None:
    if not isinstance(node, Unusable):
        log.add(node.place, f"expected a mapping, found {describe(node)}")


def _states(top: Record) -> Record | None:
    node = top.node("states")
    if isinstance(node, Mapping):
        return Record(top.log, "states", node, RECORDS["kernel_states"])
    top.expected("states", "a mapping")
    return None


def _state_set(states: Record | None, name: str, spec: Spec, top: Record) -> StateSet:
    """Return the states whose attribute has one of the values that the file names."""
    nothing = StateSet(name, "", (), (), "", top.at)
    node = states.node(name) if states else None
    if states is None or not isinstance(node, Mapping):
        if states:
            states.expected(name, "a mapping")
        return nothing
    record = Record(top.log, f"states {name!r}", node, RECORDS["state_set"])
    meaning = record.text("meaning")
    known = {attribute.name: attribute for attribute in spec.attributes}
    chosen = record.choice("attribute", tuple(known))
    if chosen is None:
        return nothing
    values = _values(record, known[chosen])
    found = [state for state in spec.states if dict(state.attributes).get(chosen) in values]
    for state in found:
        if state.code > LARGEST_CODE:
            what = f"state {state.name!r} has code {state.code}; kernels know 0 to {LARGEST_CODE}"
            record.fault("values", what)
    codes = tuple(state.code for state in found)
    return StateSet(name, chosen, values, codes, meaning, node.place)


def _values(record: Record, attribute: Attribute) -> tuple[str, ...]:
    return _chosen(record, "values", tuple(value.name for value in attribute.values))


def _chosen(record: Record, key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in a list, at least one, each one of `allowed`."""
    found = record.names(key)
    for name in found:
        if name.text not in allowed:
            what = f"{record.label}: {key}: unknown {name.text!r}"
            record.log.add(name.place, what, allowed=allowed, given=name.text)
    if key in record and not found and not record.has_fault(key):
        record.fault(key, "is empty; name at least one", allowed=allowed)
    return tuple(name.text for name in found)


def _placements(top: Record) -> Iterator[Placement]:
    entries = list(top.table("placements", "placement"))
    if not entries and isinstance(top.node("placements"), Mapping):
        top.fault("placements", "is empty; name at least one", allowed=PLACEMENTS)
    for name, node in entries:
        if name.text not in PLACEMENTS:
            what = f"unknown placement {name.text!r}"
            top.log.add(name.place, what, allowed=PLACEMENTS, given=name.text)
        record = named_record(top.log, "placement", name, node, RECORDS["placement"])
        if record:
            yield Placement(
                name=name.text,
                files=record.choice("files", FILES) or FILES[0],
                modes=_chosen(record, "modes", MODES),
                out=record.choice("out", BIASES) or BIASES[0],
                meaning=record.text("meaning"),
                place=name.place,
            )

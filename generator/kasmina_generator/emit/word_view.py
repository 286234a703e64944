"""The packing of predicates as it stands in `tables.py` and `vector.py`."""

from __future__ import annotations

from dataclasses import dataclass

from kasmina_generator.emit.layout import hexadecimal
from kasmina_generator.emit.source_map import at
from kasmina_generator.emit.torch import torch_condition
from kasmina_generator.emit.words import Test, Words
from kasmina_generator.expression import Comparison, Flag
from kasmina_generator.model import Spec
from kasmina_generator.prove.evaluate import atoms


@dataclass(frozen=True, slots=True)
class WordsView:
    """The packing of predicates, ready to stand in `tables.py` and `vector.py`."""

    plan: Words
    gather: list[str]  # the torch statements that gather the bits
    fold: list[str]  # those that lay the layers onto each other
    masks: list[tuple[str, str]]  # state, the gathered bits that it reads
    clocks: list[tuple[str, int, str]]  # state, bit of the word, numpy source over `_EPOCHS`
    legend: list[tuple[int, list[str]]]  # bit of the word, what it says


def view_words(spec: Spec, plan: Words) -> WordsView:
    """Return the packing of a machine's predicates as text."""
    return WordsView(
        plan=plan,
        gather=_gather(spec, plan),
        fold=_fold(plan) if plan.folds else [],
        masks=[(state.name, hexadecimal(plan.mask(state.name))) for state in spec.states],
        clocks=plan.clocks(),
        legend=plan.legend(),
    )


def _gather(spec: Spec, plan: Words) -> list[str]:
    masks = plan.command_masks({event.name: event.bit for event in spec.events})
    commands = [_shifted(f"events & {hexadecimal(mask)}", shift) for mask, shift in masks]
    first, *more = commands or ["events & 0"]
    return [
        f"bits = {first}" if plan.dtype == "int32" else f"bits = ({first}).to(torch.{plan.dtype})",
        *(f"bits += {term}" for term in more),
        *(_origin(spec, test) + _added(test, plan.position(test)) for test in plan.tests()),
    ]


def _origin(spec: Spec, test: Test) -> str:
    """Return the mark of the first edge whose guard asks a test."""
    asked = {test, Flag(test.operand, negated=True)} if isinstance(test, Flag) else {test}
    return at(next(edge for edge in spec.edges if asked.intersection(atoms(edge.guard))))


def _added(test: Test, position: int) -> str:
    text = torch_condition(test)
    bare = text[1:-1] if isinstance(test, Comparison) else text  # it brings parentheses
    return f"bits.add_({bare}, alpha={hexadecimal(1 << position)})"


def _fold(plan: Words) -> list[str]:
    single, shared = (hexadecimal((1 << bits) - 1) for bits in (plan.single, plan.shared))
    return [
        "bits &= on_device.masks.index_select(0, code)",
        f"shared = bits >> {plan.single}",
        *(f"shared |= shared >> {shift}" for shift in plan.folds),
        f"bits = (bits & {single}) + ((shared & {shared}) << {plan.single})",
    ]


def _shifted(text: str, shift: int) -> str:
    if shift == 0:
        return text
    return f"({text}) << {shift}" if shift > 0 else f"({text}) >> {-shift}"

"""How a machine's predicates are packed into one word a row, so that a table can decide.

A predicate is a command bit or a comparison. Those that one state reads get slots of their own in
its word; those that never meet in a state may share a slot (greedy graph colouring), commands only
where the word would get too wide otherwise. While the
word is gathered, predicates that share a slot stand in different *layers*; the state's mask keeps
its own and the layers are folded onto each other. Comparisons of the epoch counter with constants
take no part in that: a second table, by state and epoch, holds their bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kasmina_generator.emit.layout import literal
from kasmina_generator.emit.prose import prose
from kasmina_generator.expression import (
    All,
    Any,
    Comparison,
    Constant,
    Expression,
    Field,
    Flag,
    Truth,
)
from kasmina_generator.model import Edge, Spec

MOST_BITS = 12  # of a state's word: 4,096 entries a state
MOST_EPOCHS = 255  # of the table by epoch; a longer clock is compared like any field
_INT32_BITS = 31
_INT64_BITS = 63

Test = Comparison | Flag
Predicate = str | Test  # a command's name, or what a guard tests


@dataclass(frozen=True, slots=True)
class Words:
    """Where each predicate stands in the word of each state."""

    slots: Mapping[Predicate, int]
    layers: Mapping[Predicate, int]
    clock_slots: Mapping[str, Mapping[Test, int]]  # by state
    reads: Mapping[str, frozenset[Predicate]]  # by state
    single: int  # slots of one predicate; they come first
    shared: int  # slots of several predicates; they come next, then those of the epochs
    depth: int  # layers of the shared slots
    width: int  # bits of the word
    epochs: int  # largest epoch that the table by epoch tells apart from those before it

    @property
    def dtype(self) -> str:
        """Return the dtype that holds the gathered bits."""
        return "int32" if self.gathered_bits <= _INT32_BITS else "int64"

    @property
    def gathered_bits(self) -> int:
        """Return the bits of all slots and layers, before they are folded."""
        return self.single + self.shared * self.depth

    @property
    def folds(self) -> tuple[int, ...]:
        """Return the shifts that lay all layers onto the first."""
        steps = (1 << power for power in reversed(range(max(self.depth - 1, 0).bit_length())))
        return tuple(step * self.shared for step in steps)

    def position(self, predicate: Predicate) -> int:
        """Return the bit of a predicate among the gathered ones."""
        return self.slots[predicate] + self.layers[predicate] * self.shared

    def mask(self, state: str) -> int:
        """Return the gathered bits that a state reads."""
        return sum(1 << self.position(predicate) for predicate in self.reads[state])

    def command_masks(self, bits: Mapping[str, int]) -> list[tuple[int, int]]:
        """Return (mask of event bits, shift to the left) such that all commands are gathered."""
        commands = [name for name in self.slots if isinstance(name, str)]
        moved = sorted((self.position(name) - bits[name], bits[name]) for name in commands)
        return [
            (sum(1 << bit for _, bit in group), shift)
            for shift, group in itertools.groupby(moved, key=lambda pair: pair[0])
        ]

    def tests(self) -> list[Test]:
        """Return what guards test, besides epochs alone."""
        return [test for test in self.slots if not isinstance(test, str)]

    def clocks(self) -> list[tuple[str, int, str]]:
        """Return state, bit of the word and numpy source for what is tested of epochs only."""
        return [
            (state, slot, f"_EPOCHS {test.operator} {literal(test.right.value)}")
            for state, slots in self.clock_slots.items()
            for test, slot in slots.items()
            if isinstance(test, Comparison) and isinstance(test.right, Constant)
        ]

    def legend(self) -> list[tuple[int, list[str]]]:
        """Return what each bit of the word says, for people; it depends on the state."""
        said: dict[int, list[str]] = {slot: [] for slot in range(self.width)}
        for predicate, slot in self.slots.items():
            said[slot].append(predicate if isinstance(predicate, str) else prose(predicate))
        return [(slot, texts or ["epochs alone, see _CLOCKS"]) for slot, texts in said.items()]

    def condition(self, edge: Edge, command: bool) -> str:
        """Return which words let an edge pass, as numpy source over `_BIT` and `_ANY`."""
        guard = self._condition(edge.guard, edge.source)
        if not command:
            return guard[1:-1] if isinstance(edge.guard, All | Any) else guard
        asked = f"_BIT[{self.slots[edge.event]}]"
        return asked if edge.guard == Truth(True) else f"{asked} & {guard}"

    def _condition(self, guard: Expression, state: str) -> str:
        match guard:
            case Truth(value=value):
                return "_ANY" if value else "~_ANY"
            case Flag(operand=operand, negated=True):
                return f"~_BIT[{self.slots[Flag(operand, negated=False)]}]"
            case Comparison() if guard in self.clock_slots[state]:
                return f"_BIT[{self.clock_slots[state][guard]}]"
            case Comparison() | Flag():
                return f"_BIT[{self.slots[guard]}]"
            case All(operands=operands):
                return f"({' & '.join(self._condition(part, state) for part in operands)})"
            case Any(operands=operands):
                return f"({' | '.join(self._condition(part, state) for part in operands)})"


def plan_words(spec: Spec) -> Words | None:
    """Return the packing; None where a word would be too wide, so that edges must be tried."""
    tests = {state.name: tuple(_tests(spec, state.name)) for state in spec.states}
    epochs = max((_until(test) for kept in tests.values() for test in kept), default=0)
    clocks = {
        name: [test for test in kept if _until(test) and epochs <= MOST_EPOCHS]
        for name, kept in tests.items()
    }
    reads = {
        name: [*_commands(spec, name), *(test for test in kept if test not in clocks[name])]
        for name, kept in tests.items()
    }
    for colours in (_commands_apart(spec, reads.values()), _colour(reads.values())):
        words = _packed(colours, reads, clocks, epochs)
        if words.width <= MOST_BITS and words.gathered_bits <= _INT64_BITS:
            return words
    return None


def _packed(
    colours: Mapping[Predicate, int],
    reads: Mapping[str, Iterable[Predicate]],
    clocks: Mapping[str, list[Test]],
    epochs: int,
) -> Words:
    slots, layers = _in_layers(colours)
    shared = len({slots[predicate] for predicate, layer in layers.items() if layer})
    first_clock = len(set(slots.values()))
    return Words(
        slots=slots,
        layers=layers,
        clock_slots={name: _numbered(kept, first_clock) for name, kept in clocks.items()},
        reads={name: frozenset(kept) for name, kept in reads.items()},
        single=first_clock - shared,
        shared=shared,
        depth=max(layers.values(), default=0) + 1,
        width=first_clock + max(map(len, clocks.values())),
        epochs=epochs if any(clocks.values()) else 0,
    )


def _commands(spec: Spec, state: str) -> Iterator[str]:
    commands = {event.name for event in spec.events if event.kind == "command"}
    leaving = (edge.event for edge in spec.edges if edge.source == state)
    return (event for event in dict.fromkeys(leaving) if event in commands)


def _tests(spec: Spec, state: str) -> Iterator[Test]:
    """Yield what the guards of a state test, each once."""
    guards = (edge.guard for edge in spec.edges if edge.source == state)
    yield from dict.fromkeys(test for guard in guards for test in _leaves(guard))


def _leaves(guard: Expression) -> Iterator[Test]:
    match guard:
        case All(operands=operands) | Any(operands=operands):
            for operand in operands:
                yield from _leaves(operand)
        case Flag(operand=operand):
            yield Flag(operand, negated=False)
        case Comparison():
            yield guard


def _until(test: Test) -> int:
    """Return from which epoch on a test's result stays; 0 for one that reads more than epochs."""
    match test:
        case Comparison(left=Field(name="epochs"), right=Constant(value=value)):
            return int(value) + 1
        case _:
            return 0


def _colour(groups: Iterable[Iterable[Predicate]]) -> dict[Predicate, int]:
    """Give each predicate the least colour that no predicate in one group with it has."""
    groups = [list(group) for group in groups]
    colours: dict[Predicate, int] = {}
    for predicate in dict.fromkeys(member for group in groups for member in group):
        met = {colours.get(m) for group in groups if predicate in group for m in group}
        colours[predicate] = next(colour for colour in itertools.count() if colour not in met)
    return colours


def _commands_apart(spec: Spec, groups: Iterable[Iterable[Predicate]]) -> dict[Predicate, int]:
    """Colour as `_colour` does, but give each command one of its own, so that bits stay in order."""
    groups = [list(group) for group in groups]
    read = {predicate for group in groups for predicate in group}
    commands = [event.name for event in spec.events if event.name in read]
    tests = _colour([p for p in group if not isinstance(p, str)] for group in groups)
    own = {name: colour for colour, name in enumerate(commands)}
    return own | {test: colour + len(commands) for test, colour in tests.items()}


def _in_layers(
    colours: Mapping[Predicate, int],
) -> tuple[dict[Predicate, int], dict[Predicate, int]]:
    """Return slot and layer of each predicate; colours of one predicate get the first slots."""
    members: dict[int, list[Predicate]] = {}
    for predicate, colour in colours.items():
        members.setdefault(colour, []).append(predicate)
    ordered = sorted(members.values(), key=lambda kept: len(kept) > 1)
    slots = {predicate: slot for slot, kept in enumerate(ordered) for predicate in kept}
    layers = {predicate: layer for kept in ordered for layer, predicate in enumerate(kept)}
    return slots, layers


def _numbered(tests: list[Test], first: int) -> dict[Test, int]:
    return {test: first + index for index, test in enumerate(tests)}

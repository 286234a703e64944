"""What the lifecycle's figures stand beside: the same spec, interpreted in two other ways.

Both read the generated guards, so they answer exactly what ours answers; `run` checks that before
anything is timed. Each is the fastest form that we found: `transitions` with one shared machine
and guards resolved on a slotted model (a method bound per event takes 12 kB a seed and no less
time), the dict table without any object but the tuple that it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kasmina.bench._lifecycle_population import Seed
from kasmina.lifecycle import Lifecycle

Taken = tuple[Any, int]  # state, epochs


class DictTable:
    """A dict from each state to its edges, tried in their order; as one would write it by hand."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._limits = lifecycle.Limits()
        commands = set(lifecycle.commands)
        self._edges: dict[Any, list[tuple[int, Callable[..., bool], Any]]] = {}
        for edge in lifecycle.edges:
            bit = 1 << edge.event if edge.event in commands and edge.event is not None else 0
            guard = lifecycle.guards[edge.index]
            self._edges.setdefault(edge.source, []).append((bit, guard, edge.target))

    def tick(self, rows: Sequence[Seed]) -> list[Taken]:
        """Step all rows at the end of an epoch."""
        edges, limits, taken = self._edges, self._limits, []
        for events, state, epochs, context in rows:
            for bit, guard, target in edges.get(state, ()):
                if (not bit or events & bit) and guard(context, limits, epochs):
                    taken.append((target, 0))
                    break
            else:
                taken.append((state, epochs + 1))
        return taken


class TransitionsMachine:
    """The generated `transitions` machine, one for all rows, with a slotted model moved by it."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._module = module = lifecycle.machine
        self.machine = module.build_machine()
        self.limits = lifecycle.Limits()

        class Model(module.Guarded):  # type: ignore[misc, name-defined]
            __slots__ = ("context", "epochs", "limits", "state")

        self.model = Model
        commands = set(lifecycle.commands)
        self._triggers: dict[Any, list[tuple[int, Any]]] = {}
        for edge in lifecycle.edges:
            name = module.RECYCLE if edge.event is None else edge.event.name
            bit = 1 << edge.event if edge.event in commands and edge.event is not None else 0
            ways = self._triggers.setdefault(edge.source, [])
            if (bit, self.machine.events[name]) not in ways:
                ways.append((bit, self.machine.events[name]))

    def model_in(self, state: Any, epochs: int, context: Any) -> Any:
        """A model that stands in a state."""
        model = self.model()
        model.state, model.epochs, model.context, model.limits = state, epochs, context, self.limits
        return model

    def bound(self, count: int) -> list[Any]:
        """Models in the library's usual form: each with a method for every event."""

        class Bound(self._module.Guarded):  # type: ignore[misc, name-defined]
            pass

        models = [Bound() for _ in range(count)]
        self.machine.add_model(models)
        return models

    def tick(self, rows: Sequence[Seed]) -> list[Taken]:
        """Step all rows at the end of an epoch; one model is used for all of them."""
        model, taken = self.model_in(rows[0][1], 0, rows[0][3]), []
        for events, state, epochs, context in rows:
            model.state, model.epochs, model.context = state, epochs, context
            for bit, event in self._triggers.get(state, ()):
                if (not bit or events & bit) and event.trigger(model):
                    taken.append((model.state, 0))
                    break
            else:
                taken.append((state, epochs + 1))
        return taken

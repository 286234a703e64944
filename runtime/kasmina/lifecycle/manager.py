"""One seed on a state machine of the `transitions` library, with errors that explain themselves.

All managers of a lifecycle share one `Machine`; a manager is only the *model* that it moves, and
means exactly what the vector step means for one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, Literal

from transitions import EventData

from kasmina.errors import KasminaError
from kasmina.lifecycle.machine import Way, share
from kasmina.lifecycle.refusals import GuardRefused, IllegalTransition, NoRoom, describe
from kasmina.lifecycle.spec import Edge, Lifecycle, Scalar

Room = bool | Callable[[Edge], bool]
Callback = Callable[["LifecycleManager", Edge], object]
_Moment = Literal["exit", "enter", "transition"]


class NestedTrigger(KasminaError, RuntimeError):
    """A callback tried to move the seed whose transition it was told of."""

    def __init__(self, edge: Edge) -> None:
        super().__init__(
            f"a callback of {describe(edge)} tried to move the same seed; a seed takes one edge at "
            "a time, so trigger after the callback has returned"
        )


class LifecycleManager:
    """One seed. Not thread-safe: a manager belongs to the thread that moves it.

    Args:
        lifecycle: Which lifecycle; the default one where None.
        limits: The generated `Limits` in force; may be replaced at any time.
        state: Where the seed stands; the lifecycle's initial state where None.
    """

    __slots__ = (
        "_callbacks", "_history", "_shared", "_state", "_telling", "epochs", "generation",
        "history_count", "lifecycle", "limits", "parent",
    )  # fmt: skip

    def __init__(
        self,
        lifecycle: Lifecycle | None = None,
        *,
        limits: Any = None,
        state: IntEnum | None = None,
    ) -> None:
        self.lifecycle = lifecycle if lifecycle is not None else Lifecycle.default()
        self._shared = share(self.lifecycle)
        self.limits = limits if limits is not None else self._shared.limits
        self._state = self.lifecycle.initial if state is None else state
        self._history = b""
        self._callbacks: dict[_Moment, list[Callback]] | None = None
        self._telling: Edge | None = None
        self.epochs = 0  # ticks since the state was entered; saturates
        self.generation = 0  # how often the slot was re-armed; saturates
        self.parent: IntEnum | None = None  # the state before this one
        self.history_count = 0  # transitions so far; saturates

    @property
    def state(self) -> IntEnum:
        """Where the seed stands."""
        return self._state

    @property
    def history(self) -> tuple[IntEnum, ...]:
        """The last states that the seed left, oldest first."""
        return tuple(self.lifecycle.State(code) for code in self._history)

    def trigger(self, event: IntEnum | str, context: Any = None, has_room: Room = True) -> Edge:
        """Take the first edge of an event whose guard holds, and return it.

        An automatic event may be triggered too: then it is tried now and not at the next tick.

        Args:
            event: The event or its name.
            context: The generated `Context`; None for the spec's defaults, "nothing measured".
            has_room: Whether an edge into a capacity may be taken; asked only if one is wanted.

        Raises:
            IllegalTransition: The state has no edge for the event.
            GuardRefused: No edge of the event has a guard that holds.
            NoRoom: The guard holds and there is no room.
        """
        ways = self._shared.by_event.get((self._state, event))
        if ways is None:
            raise IllegalTransition(self.state, self.lifecycle.event(event), self.legal_events())
        context = self._shared.context if context is None else context
        edge = self._take(ways, context, has_room)
        if edge is None:
            raise self._guard_refused(ways[0].edge, context)
        return edge

    def tick(
        self, context: Any = None, *, commands: Iterable[IntEnum] = (), has_room: Room = True
    ) -> Edge | None:
        """End an epoch: take the first open edge of a command or an automatic event, if any.

        Returns:
            The edge; None where no guard held or the edge found no room, and an epoch was counted.
        """
        context = self._shared.context if context is None else context
        try:
            edge = self._take(self._tick_ways(frozenset(commands)), context, has_room)
        except NoRoom:
            edge = None
        if edge is None and self.epochs < self._shared.highest_epochs:
            self.epochs += 1
        return edge

    def may(self, event: IntEnum | str, context: Any = None) -> bool:
        """Whether `trigger` would take an edge if there is room."""
        context = self._shared.context if context is None else context
        ways = self._shared.by_event.get((self._state, event), ())
        if not ways:
            self.lifecycle.event(event)  # an unknown one is an error, an illegal one is not
        return any(way.guard(context, self.limits, self.epochs) for way in ways)

    def legal_events(self, context: Any = None) -> tuple[IntEnum, ...]:
        """The events that the state has edges for; with a context, those that `may` pass now."""
        ways = self._shared.ways[self._state]
        events = sorted({way.edge.event for way in ways if way.edge.event is not None})
        return tuple(e for e in events if context is None or self.may(e, context))

    def on_exit(self, callback: Callback) -> Callback:
        """Call `callback(manager, edge)` before a state is left; an exception keeps the seed in it.

        The three methods return the callback, so that they can be used as decorators.
        """
        return self._listen("exit", callback)

    def on_enter(self, callback: Callback) -> Callback:
        """Call `callback(manager, edge)` after a state was entered and everything was counted."""
        return self._listen("enter", callback)

    def on_transition(self, callback: Callback) -> Callback:
        """Call `callback(manager, edge)` after each transition, after all `on_enter`."""
        return self._listen("transition", callback)

    def _tick_ways(self, commands: frozenset[IntEnum]) -> tuple[Way, ...]:
        if not commands:
            return self._shared.by_tick[self._state]
        idle = self._shared.commands - commands
        return tuple(way for way in self._shared.ways[self._state] if way.edge.event not in idle)

    def _take(self, ways: tuple[Way, ...], context: Any, has_room: Room) -> Edge | None:
        if self._telling is not None:
            raise NestedTrigger(self._telling)
        arguments = (context, self.limits, self.epochs)
        for way in ways:
            if way.asks_for_room and has_room is not True:
                self._ask_for_room(way, arguments, has_room)
            data = EventData(None, way.event, self._shared.machine, self, arguments, {})
            if way.transition.execute(data):
                self._count(way.edge)
                return way.edge
        return None

    def _ask_for_room(self, way: Way, arguments: tuple[Any, Any, int], has_room: Room) -> None:
        if way.guard(*arguments) and not (callable(has_room) and has_room(way.edge)):
            raise NoRoom(way.edge)

    def _count(self, edge: Edge) -> None:
        """Keep what the state tensor keeps: epochs, parent, history and generation."""
        shared = self._shared
        self.epochs = 0
        self._history = (self._history + bytes((edge.source,)))[-shared.ring :]
        self.history_count += 1
        if self.history_count == shared.count_end:
            self.history_count -= shared.ring
        self.parent = edge.source
        if edge.recycle:
            self.parent = None
            self.generation = min(self.generation + 1, shared.highest_generation)
        if self._callbacks is not None:
            self._tell("enter", edge)
            self._tell("transition", edge)

    def leave(self, edge: Edge) -> None:
        """Tell the callbacks of `on_exit`; the shared machine calls this."""
        if self._callbacks is not None:
            self._tell("exit", edge)

    def _listen(self, moment: _Moment, callback: Callback) -> Callback:
        if self._callbacks is None:
            self._callbacks = {"exit": [], "enter": [], "transition": []}
        self._callbacks[moment].append(callback)
        return callback

    def _tell(self, moment: _Moment, edge: Edge) -> None:
        assert self._callbacks is not None
        self._telling = edge
        try:
            for callback in self._callbacks[moment]:
                callback(self, edge)
        finally:
            self._telling = None

    def _guard_refused(self, edge: Edge, context: Any) -> GuardRefused:
        read: dict[str, Scalar] = {"epochs": self.epochs}
        tables = self.lifecycle.tables
        for name in ("MIN_EPOCHS", "MAX_EPOCHS"):
            if (value := int(getattr(tables, name)[edge.source])) > 0:
                read[name.lower()] = value
        recorders = (_Recorder(context, read), _Recorder(self.limits, read))
        self.lifecycle.guards[edge.index](*recorders, self.epochs)
        return GuardRefused(edge, edge.guard_text, read)

    def __repr__(self) -> str:
        return f"LifecycleManager({self._state.name}, epochs={self.epochs}, generation={self.generation})"


class _Recorder:
    """Stands in for a context or limits and notes what a guard reads of it."""

    def __init__(self, subject: Any, read: dict[str, Scalar]) -> None:
        self._subject = subject
        self._read = read

    def __getattr__(self, name: str) -> Scalar:
        value: Scalar = getattr(self._subject, name)
        self._read[name] = value
        return value

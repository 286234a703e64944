"""The lifecycle at work: one seed (`LifecycleManager`), all seeds (`StateTensor`, `step`)."""

from kasmina.lifecycle.address import Address, InvalidAddress
from kasmina.lifecycle.columns import InvalidUpdate
from kasmina.lifecycle.commands import Command, CommandQueue, Drained, UnknownRow
from kasmina.lifecycle.inputs import ContextTable, LimitTable, RefusedValue
from kasmina.lifecycle.loading import PackageError
from kasmina.lifecycle.manager import LifecycleManager, NestedTrigger
from kasmina.lifecycle.migration import MigrationError, migrate
from kasmina.lifecycle.randomness import generator
from kasmina.lifecycle.refusals import GuardRefused, IllegalTransition, NoRoom
from kasmina.lifecycle.seed import LogicalSeed
from kasmina.lifecycle.spec import Column, Edge, Lifecycle, UnknownName
from kasmina.lifecycle.stepping import (
    InvalidStep,
    Refusal,
    StepResult,
    UnusedEvents,
    is_at_rest,
    rest,
    step,
)
from kasmina.lifecycle.tensor import ConcurrentWrite, StateMismatch, StateRows, StateTensor

__all__ = [
    "Address",
    "Column",
    "Command",
    "CommandQueue",
    "ConcurrentWrite",
    "ContextTable",
    "Drained",
    "Edge",
    "GuardRefused",
    "IllegalTransition",
    "InvalidAddress",
    "InvalidStep",
    "InvalidUpdate",
    "Lifecycle",
    "LifecycleManager",
    "LimitTable",
    "LogicalSeed",
    "MigrationError",
    "NestedTrigger",
    "NoRoom",
    "PackageError",
    "Refusal",
    "RefusedValue",
    "StateMismatch",
    "StateRows",
    "StateTensor",
    "StepResult",
    "UnknownName",
    "UnknownRow",
    "UnusedEvents",
    "generator",
    "is_at_rest",
    "migrate",
    "rest",
    "step",
]

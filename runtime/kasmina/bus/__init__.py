"""Messages between processes: clients, publishers, handlers, ordering and dead letters.

A name is imported from its module when it is first used, so that a bus inside the process needs
neither redis-py nor prometheus_client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kasmina.bus.attempts import Attempts, Rejected
    from kasmina.bus.breaker import CircuitBreaker, CircuitOpen
    from kasmina.bus.claims import ClaimStore
    from kasmina.bus.client import Delivery, Loss, MessageBusClient
    from kasmina.bus.commands import CommandConfig, CommandHandler, Request
    from kasmina.bus.consumer import Consumer, ConsumerConfig, Label
    from kasmina.bus.dead_letters import DeadLetterQueue
    from kasmina.bus.deduplication import MessageDeduplicator, MessageKey
    from kasmina.bus.errors import BusError
    from kasmina.bus.events import EventPublisher
    from kasmina.bus.frames import HealthFrame
    from kasmina.bus.in_process import InProcessBus
    from kasmina.bus.limiter import RateLimiter
    from kasmina.bus.masks import ActionMask
    from kasmina.bus.mock import MockMessageBusClient
    from kasmina.bus.monitor import MessageBusMonitor
    from kasmina.bus.operator import Operator
    from kasmina.bus.operator_thread import OperatorThread
    from kasmina.bus.ordering import Order, OrderedMessageProcessor
    from kasmina.bus.outbox import Outbox
    from kasmina.bus.packing import Precision
    from kasmina.bus.redis_client import RedisStreamClient
    from kasmina.bus.retry import Backoff
    from kasmina.bus.stamping import Stamp
    from kasmina.bus.telemetry import TelemetryConfig, TelemetryPublisher, TelemetryReader

_MODULE_OF = {
    "ActionMask": "masks",
    "Attempts": "attempts",
    "Backoff": "retry",
    "BusError": "errors",
    "CircuitBreaker": "breaker",
    "CircuitOpen": "breaker",
    "ClaimStore": "claims",
    "CommandConfig": "commands",
    "CommandHandler": "commands",
    "Consumer": "consumer",
    "ConsumerConfig": "consumer",
    "DeadLetterQueue": "dead_letters",
    "Delivery": "client",
    "EventPublisher": "events",
    "HealthFrame": "frames",
    "InProcessBus": "in_process",
    "Label": "consumer",
    "Loss": "client",
    "MessageBusClient": "client",
    "MessageBusMonitor": "monitor",
    "MessageDeduplicator": "deduplication",
    "MessageKey": "deduplication",
    "MockMessageBusClient": "mock",
    "Operator": "operator",
    "OperatorThread": "operator_thread",
    "Order": "ordering",
    "OrderedMessageProcessor": "ordering",
    "Outbox": "outbox",
    "Precision": "packing",
    "RateLimiter": "limiter",
    "RedisStreamClient": "redis_client",
    "Rejected": "attempts",
    "Request": "commands",
    "Stamp": "stamping",
    "TelemetryConfig": "telemetry",
    "TelemetryPublisher": "telemetry",
    "TelemetryReader": "telemetry",
}

__all__ = [
    "ActionMask",
    "Attempts",
    "Backoff",
    "BusError",
    "CircuitBreaker",
    "CircuitOpen",
    "ClaimStore",
    "CommandConfig",
    "CommandHandler",
    "Consumer",
    "ConsumerConfig",
    "DeadLetterQueue",
    "Delivery",
    "EventPublisher",
    "HealthFrame",
    "InProcessBus",
    "Label",
    "Loss",
    "MessageBusClient",
    "MessageBusMonitor",
    "MessageDeduplicator",
    "MessageKey",
    "MockMessageBusClient",
    "Operator",
    "OperatorThread",
    "Order",
    "OrderedMessageProcessor",
    "Outbox",
    "Precision",
    "RateLimiter",
    "RedisStreamClient",
    "Rejected",
    "Request",
    "Stamp",
    "TelemetryConfig",
    "TelemetryPublisher",
    "TelemetryReader",
]


def __getattr__(name: str) -> Any:
    """Import the name's module."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"kasmina.bus.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'kasmina.bus' has no attribute {name!r}")

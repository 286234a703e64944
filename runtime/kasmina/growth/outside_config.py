"""How often a run tells what on a bus."""

from __future__ import annotations

from dataclasses import dataclass, field

from kasmina.bus.telemetry import TelemetryConfig


@dataclass(frozen=True, slots=True)
class OutsideConfig:
    """How often a run tells what.

    Attributes:
        telemetry_s: seconds from one frame of every site's health to the next; 0 sends none.
        heartbeat_s: seconds between two signs of life.
        lease_s: how long the run's name stays its own without one, seconds.
        telemetry: how frames are packed and how many entries are kept.
        commands_a_second: that are read at most; those of a flood wait in their stream.
        events_keep: entries that the stream of events keeps; None keeps all.
        start_s: how long the bus may take to answer first, seconds.
        drain_s: how long the end may take, with what was not sent yet and with a bus that does not
            answer, seconds.
        metrics: port of this machine (127.0.0.1) on which Prometheus finds how the bus does; 0 is a
            free one, None none.
    """

    telemetry_s: float = 1.0
    heartbeat_s: float = 1.0
    lease_s: float = 10.0
    telemetry: TelemetryConfig = field(default_factory=lambda: TelemetryConfig(keep=600))
    commands_a_second: int = 5000
    events_keep: int | None = 1_000_000
    start_s: float = 10.0
    drain_s: float = 5.0
    metrics: int | None = None

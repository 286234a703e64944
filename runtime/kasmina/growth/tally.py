"""What a run has done on its bus since its process began, in numbers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from kasmina.bus.commands import CommandHandler
from kasmina.bus.events import EventPublisher
from kasmina.bus.telemetry import TelemetryPublisher
from kasmina.growth.alarms import Alarms, Losses
from kasmina.growth.showing import Showing
from kasmina.growth.unread import Unread

logger = logging.getLogger(__name__)

# what is wrong with who sends: an attack, a wrong key or clock, another version, a broken program
SENDERS = ("malformed", "version", "unsigned", "forged", "replayed", "expired", "reused")
WORTH_A_LOOK = (  # what somebody has missed or will miss, or tries
    "commands unreadable",
    "commands refused, unsigned",
    "commands refused, forged",
    "commands refused, replayed",
    "frames dropped",
    "observations dropped",
    "bytes of events not sent",
    "losses",
)


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts by name, from those who count."""

    handler: CommandHandler
    telemetry: TelemetryPublisher
    events: EventPublisher | None
    showing: Showing
    unread: Unread
    losses: Losses
    alarms: Alarms

    @property
    def publishers(self) -> list[CommandHandler | TelemetryPublisher | EventPublisher]:
        """Those that wait while the bus is away."""
        return [each for each in (self.handler, self.telemetry, self.events) if each is not None]

    def counts(self) -> dict[str, int]:
        """What was done, and what was lost or dropped; from any thread."""
        handler, events = self.handler, self.events
        return {
            "commands waiting": handler.waiting,
            "commands accepted": handler.accepted,
            "commands applied": handler.applied,
            "commands refused": handler.refused,
            **{f"commands refused, {reason}": handler.refusals[reason] for reason in SENDERS},
            "commands unreadable": handler.unreadable,
            "commands unreadable, no dead letter": self.unread.not_kept,
            "copies of commands": handler.duplicates,
            "streams of commands begun anew": handler.rewound,
            "frames waiting": self.telemetry.waiting,
            "frames sent": self.telemetry.sent,
            "frames dropped": self.telemetry.dropped.total(),
            "observations dropped": self.showing.dropped,
            "events sent": 0 if events is None else events.sent,
            "bytes of events not sent": 0 if events is None else events.lag_bytes,
            "calls not answered": sum(each.outages.count for each in self.publishers),
            "losses": self.losses.count,
            "entries lost": self.losses.entries,
            "alarms": self.alarms.count,
        }

    def tell(self, run: str) -> None:
        """Say it once more in the log, when the run leaves its bus."""
        counts = self.counts()
        told = ", ".join(f"{what} {number}" for what, number in counts.items() if number)
        level = logging.WARNING if any(counts[what] for what in WORTH_A_LOOK) else logging.INFO
        logger.log(level, "run %s leaves its bus: %s", run, told or "nothing was said")

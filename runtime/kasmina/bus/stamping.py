"""Puts messages into envelopes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from uuid import uuid4

from kasmina_generated.messages.types import VERSION, Body, Envelope


class Stamp:
    """Numbers the messages of one producer; safe for many threads.

    Args:
        name: what the producer's name begins with; the rest makes it this process's own. At most 80
            characters.
        clock: seconds since 1970.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.time) -> None:
        self.producer = f"{name[:80]}-{uuid4().hex[:16]}"
        self._numbers, self._clock = itertools.count(), clock

    def __call__(
        self,
        body: Body,
        *,
        id: str | None = None,
        correlation: str | None = None,
        trace: str | None = None,
    ) -> Envelope:
        """Return a message in its envelope.

        Args:
            body: the message.
            id: one that a copy of the message has as well; None makes a new one.
            correlation: id of the message that it answers or belongs to.
            trace: W3C trace context.
        """
        sequence = next(self._numbers)
        return Envelope(
            version=VERSION,  # type: ignore[arg-type]  # generated together with its literal
            id=id or f"{self.producer}:{sequence}",
            producer=self.producer,
            sequence=sequence,
            time=self._clock(),
            trace=trace,
            correlation=correlation,
            body=body,
        )

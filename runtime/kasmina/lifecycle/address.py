"""The name of a seed in the log, on the bus and in a checkpoint."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from kasmina.errors import KasminaError

_PATTERN = re.compile(r"(?P<run>[^/]*)/(?P<site>.*)\[(?P<slot>\d+)\]#(?P<generation>\d+)")


class Address(NamedTuple):
    """One life of one seed; `str(address)` reads `run/site[slot]#generation`."""

    run: str  # without a slash
    site: str  # path of the site's module in the model, e.g. "encoder.0"
    slot: int  # place in the site, from 0
    generation: int  # how often the slot had been re-armed, from 0

    def __str__(self) -> str:
        return f"{self.run}/{self.site}[{self.slot}]#{self.generation}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote; raises `InvalidAddress` for anything else."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise InvalidAddress(text)
        return cls(match["run"], match["site"], int(match["slot"]), int(match["generation"]))


class InvalidAddress(KasminaError, ValueError):
    """A text that is no address."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} is no address of a seed; write run/site[slot]#generation, "
            "e.g. 'digits-7/block.0[3]#0'"
        )
        self.text = text

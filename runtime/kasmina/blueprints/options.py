"""Which values an option of a kind may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Legal(Protocol):
    """The legal values of an option; `str` of it names them."""

    def takes(self, value: Any) -> bool:
        """Whether `value` is one of them."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """Whole numbers from `least` to `most`, only odd ones or also None where so said."""

    least: int = 1
    most: int = 2**16
    odd: bool = False
    or_none: bool = False

    def takes(self, value: Any) -> bool:
        """True and False are no numbers here."""
        if value is None:
            return self.or_none
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and self.least <= value <= self.most and not (self.odd and value % 2 == 0)

    def __str__(self) -> str:
        numbers = f"{'an odd' if self.odd else 'a'} whole number from {self.least} to {self.most}"
        return f"{numbers}, or None" if self.or_none else numbers


class OneOf:
    """One of a few values, of its very type: 1 is not True."""

    def __init__(self, *values: str | bool | None) -> None:
        self._values = values

    def takes(self, value: Any) -> bool:
        """See `Legal`."""
        return any(type(value) is type(each) and value == each for each in self._values)

    def __str__(self) -> str:
        return ", ".join(map(str, self._values))

"""What words of the command line are read as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token

Flag = Annotated[bool, Parameter(negative=())]


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """Read a whole number; `int` of the command line's library would cut 1.5 to 1."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number") from None


Whole = Annotated[int, Parameter(converter=_whole)]
WholeOrNone = Annotated[int | None, Parameter(converter=_whole)]

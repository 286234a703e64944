"""The names that the store accepts: everything else is refused before it touches the disk."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import NamedTuple, Self

from kasmina.checkpoint.errors import BadName

SUFFIX = ".ckpt"
TENSOR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")
LONGEST = 255  # characters of a tensor's name
# One way to write each number, so that an id and its file's name say the same.
_ID = re.compile(r"([0-9]{12}|[1-9][0-9]{12,14})-([0-9a-f]{8})")
_V1 = re.compile(r"checkpoint_([0-9]{1,12})\.json")
_TEMPORARY = re.compile(r"\.[0-9]{12,15}-[0-9a-f]{8}\.[0-9a-f]{8}\.tmp")


class CheckpointId(NamedTuple):
    """A number that counts up in a directory, and a random part that keeps processes apart.

    Ids compare in the order of saving.
    """

    number: int
    mark: str  # 8 hexadecimal digits

    @classmethod
    def parse(cls, text: str) -> Self:
        """The id that is written so.

        Raises:
            BadName: it is none.
        """
        found = _ID.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise BadName(
                f"{str(text)[:100]!r} is no id of a checkpoint; an id looks like "
                "000000000042-1a2b3c4d, and kasmina checkpoint list shows those that are there"
            )
        return cls(int(found[1]), found[2])

    @classmethod
    def of_file(cls, name: str) -> Self | None:
        """The id of a file by its name; None for files of other kinds."""
        found = _ID.fullmatch(name.removesuffix(SUFFIX)) if name.endswith(SUFFIX) else None
        return None if found is None else cls(int(found[1]), found[2])

    @classmethod
    def after(cls, number: int) -> Self:
        """A fresh id.

        Raises:
            BadName: no number is left.
        """
        if number >= 10**15 - 1:
            raise BadName(
                f"no number is left after {number}; no run counts that far, so move the file that "
                "has it in its name out of the directory"
            )
        return cls(number + 1, secrets.token_hex(4))

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self}{SUFFIX}"

    @property
    def temporary(self) -> str:
        """A name for the file while it is written."""
        return f".{self}.{secrets.token_hex(4)}.tmp"

    def __str__(self) -> str:
        return f"{self.number:012d}-{self.mark}"


def numbers_in(names: Iterable[str]) -> list[tuple[int, str]]:
    """The checkpoints of format 1 among file names: number and JSON file, the oldest first."""
    found = ((_V1.fullmatch(name), name) for name in names)
    return sorted((int(match[1]), name) for match, name in found if match)


def is_leftover(name: str) -> bool:
    """Whether a file has a name that only unfinished writing leaves."""
    return _TEMPORARY.fullmatch(name) is not None


def is_tensor_name(name: str) -> bool:
    """Whether a tensor may be called so: words of letters, digits, `_`, `.`, `-`, joined by `/`."""
    return len(name) <= LONGEST and TENSOR_NAME.fullmatch(name) is not None

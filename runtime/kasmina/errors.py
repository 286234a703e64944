"""The errors that a user can cause, and nothing else."""

from __future__ import annotations

from typing import ClassVar


class KasminaError(Exception):
    """Base of every error that says: this input cannot be used as it is.

    The message names what was wrong, where, what is legal and what to do next. The command line
    prints it without a traceback and ends with `exit_code`.
    """

    exit_code: ClassVar[int] = 1


class UsageError(KasminaError):
    """The command line itself asks for something that does not exist."""

    exit_code: ClassVar[int] = 2

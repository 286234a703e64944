"""What is registered by name: one set of rules and messages for kinds and strategies."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Generic, TypeVar

from kasmina.errors import KasminaError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries by name, in the order of registration; none is ever taken out again.

    Args:
        what: an entry in words.
        decorator: what registers one, without its argument.
        like: a good name.
        error: what is raised.
    """

    def __init__(self, what: str, decorator: str, like: str, error: type[KasminaError]) -> None:
        self._what, self._decorator, self._like, self._error = what, decorator, like, error
        self._entries: dict[str, Entry] = {}
        self._from: dict[str, str] = {}  # by name the class

    def refuse(self, name: str) -> None:
        """Raise where nothing can be registered as `name`."""
        if not isinstance(name, str):
            raise self._error(
                f"{self._decorator} needs a name: write @{self._decorator}({self._like!r}); got "
                f"{name!r}"
            )
        if not name.isidentifier():
            raise self._error(
                f"{name!r} is no plain word; name the {self._what} like {self._like!r}"
            )
        if name in self._entries:
            raise self._error(
                f"{self._what} {name!r} is already registered by {self._from[name]}; choose another "
                "name"
            )

    def add(self, name: str, kind: type, entry: Entry) -> None:
        """Register what was made of the class `kind`; raises as `refuse`."""
        self.refuse(name)
        self._entries[name], self._from[name] = entry, kind.__qualname__

    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._entries)

    def get(self, name: str, also: str = "") -> Entry:
        """The entry `name`; raises where there is none, and lists the known ones and `also`."""
        if name not in self._entries:
            near = get_close_matches(str(name), self._entries, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(self._entries)
            raise self._error(f"unknown {self._what} {name!r}; known: {known}{also}{hint}")
        return self._entries[name]

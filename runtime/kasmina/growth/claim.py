"""One Gardener at a time has a garden.

Two of them would each keep the rows of the same pools apart, tick the same seeds and step the same
optimizer, and neither would know what the other has done.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from weakref import WeakKeyDictionary, finalize, ref

from kasmina.errors import KasminaError
from kasmina.sites import Garden

_HELD: WeakKeyDictionary[Garden, ref[object]] = WeakKeyDictionary()


def refuse_second(garden: Garden) -> None:
    """Raise `KasminaError` where a Gardener that was not closed has the garden."""
    if _is_held(garden):
        gc.collect()  # one that nobody can reach any more holds itself in circles
    if _is_held(garden):
        raise KasminaError(
            f"the seeds of run {garden.run!r} have a Gardener already, and two would undo each other's "
            "work; go on with that one, or close() it before you make another"
        )


def hold(garden: Garden, holder: object, let_go: Callable[[], None]) -> Callable[[], object]:
    """Note whose garden it is, until the result is called or `holder` is gone; then call `let_go`."""
    _HELD[garden] = ref(holder)

    def end() -> None:
        del _HELD[garden]
        let_go()

    ending = finalize(holder, end)
    ending.atexit = False
    return ending


def _is_held(garden: Garden) -> bool:
    holder = _HELD.get(garden)
    return holder is not None and holder() is not None

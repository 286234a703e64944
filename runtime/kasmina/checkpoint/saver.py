"""The thread that saves while the training goes on."""

from __future__ import annotations

import atexit
import os
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]
IDLE_S = 10.0  # after which the thread ends
_SAVERS: weakref.WeakSet[Saver] = weakref.WeakSet()


class Saver:
    """Runs jobs one after the other in a thread of its own.

    At most `depth` jobs wait; one more waits for room (back-pressure). A job that fails does not
    stop the next; the first error is kept for `raise_failure`. The thread is started when it is
    needed, also in a process that was forked, and ends when it has been idle for a while. At the
    interpreter's end what waits is finished, and an error that nobody has seen is told there.

    Args:
        depth: jobs that may wait, 1 or more.
    """

    def __init__(self, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"a queue of {depth}; legal is 1 or more")
        self._depth = depth
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._busy = False
        self._failures: list[BaseException] = []
        self._thread: threading.Thread | None = None
        _SAVERS.add(self)

    def submit(self, job: Job) -> None:
        """Queue a job; waits while the queue is full. Raises what an earlier job raised.

        Raises:
            RuntimeError: no thread can be started; the job is not queued.
        """
        if self._pid != os.getpid():
            self._start_afresh()
        self.raise_failure()
        with self._changed:
            self._changed.wait_for(lambda: len(self._jobs) < self._depth)
            if self._thread is None:  # first, since a process may be allowed no more threads
                thread = threading.Thread(target=self._work, name="kasmina-checkpoint", daemon=True)
                thread.start()
                self._thread = thread
            self._jobs.append(job)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until every job is done; raises what one of them raised."""
        if self._pid == os.getpid():
            with self._changed:
                self._changed.wait_for(lambda: not self._jobs and not self._busy)
            self.raise_failure()

    def raise_failure(self) -> None:
        """Raise, once, the first error since the last call; others stand in its notes."""
        with self._changed:
            failures, self._failures = self._failures, []
        if failures:
            for other in failures[1:]:
                failures[0].add_note(f"and later: {other}")
            raise failures[0]

    def _start_afresh(self) -> None:
        """Locks and jobs of a parent process are not ours; it finishes its jobs itself."""
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._jobs, self._failures = deque(), []
        self._busy, self._thread = False, None

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._jobs, IDLE_S):
                    self._thread = None
                    return
                job, self._busy = self._jobs.popleft(), True
                self._changed.notify_all()
            try:
                job()
            except BaseException as error:  # noqa: BLE001  it is raised where somebody hears it
                with self._changed:
                    self._failures.append(error)
            finally:
                job = _nothing  # its snapshot may be large
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()


def _nothing() -> None:
    """Take the place of a job that is done."""


@atexit.register
def _finish() -> None:
    for saver in list(_SAVERS):
        try:
            saver.flush()
        except Exception:  # noqa: BLE001  the others must finish too
            traceback.print_exc()

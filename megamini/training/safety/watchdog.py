"""The watchdog ends a rank that hangs: it writes stack traces, and exits with a status that says try again.

Collectives of a lost rank, a stopped process or a dead network can wait for hours without any error, and what they say
then names no line of ours, so each rank watches itself from a thread of its own.
"""

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

from megamini.errors import TRY_AGAIN

# The first update may compile kernels.
START_MINUTES = 30.0
# All ranks notice within moments of each other; none may end the others, by its exit, before they have spoken.
_LAST_WORDS = 5.0  # seconds


class Watchdog:
    """Context that ends the process when `alive` was not called for `seconds`; None never does."""

    def __init__(self, seconds: float | None, rank: int) -> None:
        self._seconds, self._rank = seconds, rank
        self._deadline = time.monotonic() + max(seconds or 0.0, 60 * START_MINUTES)
        self._last = "the start"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._over.set()

    def alive(self, after: str) -> None:
        """The run has moved: `after`, such as update 7."""
        if self._seconds is not None:
            self._last, self._deadline = after, time.monotonic() + self._seconds

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            if self._over.wait(min(left, self._seconds / 10)):  # the deadline moves, at first to an earlier one
                return
        print(
            f"error: rank {self._rank}: nothing has moved for {self._seconds / 60:g} minutes (training.hang_minutes) "
            f"after {self._last}; what each thread is doing follows. Look for a rank or host that is gone or stopped, "
            "then run the same command again: it continues from the newest complete checkpoint",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(all_threads=True)
        time.sleep(_LAST_WORDS)
        os._exit(TRY_AGAIN)

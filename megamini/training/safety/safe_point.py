"""What asks the loop to save behind an update: a signal, a file in the run (tools/stop.py), and the time since then."""

import os
import time
from pathlib import Path

from megamini.training.safety.signals import SCHEDULER_SIGNAL, StopFlag

_POLL_SECONDS = 1.0


class SafePoint:
    """One rank's wishes, on which all ranks then agree.

    request: the file that asks to stop, and minutes: the longest time between two saves; of rank 0, None on the others.
    """

    def __init__(self, stop: StopFlag, request: Path | None, minutes: float | None) -> None:
        self._stop, self._request, self._minutes = stop, request, minutes
        self._polled = self._saved = time.monotonic()
        self._requested = False

    def stop(self) -> bool:
        """Whether to save and end."""
        now = time.monotonic()
        if self._request and not self._requested and now - self._polled > _POLL_SECONDS:
            self._polled, self._requested = now, os.path.exists(self._request)  # noqa: PTH110 (a third of the time)
        return self._requested or self._stop.received is not None

    def comes_back(self) -> bool:
        """Whether this rank's scheduler has asked, which may start the same command again."""
        return self._stop.received is SCHEDULER_SIGNAL

    @property
    def stopped_by(self) -> str:
        """What stopped the run, as far as this rank knows."""
        return "request (tools/stop.py)" if self._requested else "a signal"

    def save(self) -> bool:
        """Whether it is time to save."""
        return self._minutes is not None and time.monotonic() - self._saved >= 60 * self._minutes

    def saved(self) -> None:
        """All ranks have: the time runs anew."""
        self._saved = time.monotonic()

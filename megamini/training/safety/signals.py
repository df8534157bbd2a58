"""A signal asks the run to stop, and the loop does so at its next update, the safe point; a second one ends it at once.

Signals are read by a thread, from the descriptor that Python's own handler writes to: where the main thread waits for
another rank, a handler in Python would not run before that wait ends.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

# Of schedulers, of Ctrl-C, and of a terminal that closes.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# What launch/cluster asks Slurm for: nobody else means it, and who gets it comes back.
SCHEDULER_SIGNAL = signal.SIGUSR1

# One event may send several: `timeout` signals its command, and then the group that the command is in; where a terminal
# closes, its shell sends SIGHUP, and so does the system when the shell has ended.
_ONE_EVENT, _TERMINAL_CLOSES = 0.5, 5.0  # seconds
# A launcher that gets one of these tells its ranks by SIGTERM, one after another: the next only when the one before has
# ended. A scheduler's signal to a whole job, and under DeepSpeed's launcher Ctrl-C, reach the ranks by themselves too.
_REPEATED_BY = {
    b"deepspeed.launcher": {signal.SIGINT, signal.SIGTERM},
    b"torchrun": {signal.SIGTERM},
    b"torch.distributed.run": {signal.SIGTERM},
    b"torch/distributed/run": {signal.SIGTERM},
}


def hold_scheduler_signal() -> None:
    """From now on SIGUSR1 waits until there is a `StopFlag`, and ends nothing. Main thread, before it starts others."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {SCHEDULER_SIGNAL})


class StopFlag:
    """Context in which the stop signals ask the run to stop instead of ending the process. Main thread only.

    A signal that is ignored already stays so: `nohup` ignores SIGHUP, and shells the Ctrl-C of what runs behind them.
    """

    def __init__(self, speaks: bool) -> None:
        """speaks: whether this rank says what it does (rank 0)."""
        self.received: signal.Signals | None = None
        self._speaks = speaks
        self._at = 0.0
        self._repeated = _repeated_by_the_launcher()
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopFlag":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, lambda *_: None)
        # One that came during the start is received now.
        self._previous_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {SCHEDULER_SIGNAL})
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous_mask)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        self._writer.close()

    def _listen(self) -> None:
        with self._reader:
            while read := self._reader.recv(1):
                if read[0] in STOP_SIGNALS:  # others have handlers too, such as that of the loader's workers
                    self._receive(signal.Signals(read[0]))

    def _receive(self, number: signal.Signals) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
            self._say(f"{number.name}: saves after this update and ends; a second signal ends at once")
        elif not self._belongs_to_the_first(number):
            self._say(f"error: {number.name}: ended at once; the same command continues from the newest checkpoint")
            for worker in multiprocessing.active_children():
                worker.kill()
            os._exit(128 + number)

    def _belongs_to_the_first(self, number: signal.Signals) -> bool:
        since = time.monotonic() - self._at
        if since < _ONE_EVENT or (number is self.received is signal.SIGHUP and since < _TERMINAL_CLOSES):
            return True
        forgiven = number is signal.SIGTERM and self.received in self._repeated
        self._repeated = set() if forgiven else self._repeated
        return forgiven

    def _say(self, text: str) -> None:
        if self._speaks:
            with contextlib.suppress(OSError, ValueError):  # the terminal may be closed
                print(text, file=sys.stderr, flush=True)


def _repeated_by_the_launcher() -> set[signal.Signals]:
    """The signals that this rank gets a second time, as SIGTERM, from the launcher that has started it."""
    if "RANK" not in os.environ:
        return set()
    try:
        command = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:  # no Linux
        return {signal.SIGINT, signal.SIGTERM}
    return next((found for name, found in _REPEATED_BY.items() if name in command), set())

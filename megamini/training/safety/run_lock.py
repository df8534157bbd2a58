"""One process at a time in a run directory: the lock, who has it, and how that one is asked to stop."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megamini.errors import UserError, writing
from megamini.files import write_atomically
from megamini.lock_file import LockFile, describe, described, read_holder

_LOCK, _REQUEST = "running.json", "stop"
_LOOKS_GONE = 30.0  # seconds without a sign of life


@contextmanager
def run_lock(directory: Path, key: str, patience: int = 0, can_be_asked: bool = False) -> Iterator[None]:
    """Make a run directory, and keep any other process out of it. Rank 0 only.

    key: of the recipe, that chooses the folder. patience: seconds to wait for another. can_be_asked: whether
    `request_of` is looked at. Raises `UserError` where another process has the directory.
    """
    with writing(directory, f"{key}: "):
        directory.mkdir(parents=True, exist_ok=True)
    lock = LockFile(directory / _LOCK)
    _wait_for(lock, patience, can_be_asked)
    try:
        if lock.took_over:
            print(f"{lock.path}: {describe(lock.took_over)}, is gone without an end; this run takes its place")
        request_of(directory).unlink(missing_ok=True)  # that was for an earlier run
        yield
    finally:
        request_of(directory).unlink(missing_ok=True)
        lock.release()


def _wait_for(lock: LockFile, patience: int, can_be_asked: bool) -> None:
    """Have the lock, or raise `UserError` when that took longer than `patience` seconds."""
    directory, started, said = lock.path.parent, time.monotonic(), False
    while not lock.acquire(can_be_asked=can_be_asked):
        silent, left = lock.silent_for, patience - (time.monotonic() - started)
        if left <= 0 and not lock.undecided:
            remedy = "wait for its end, or give this one another name"
            if silent > _LOOKS_GONE:
                remedy = (
                    f"no sign of life for {silent:.0f} seconds: if nothing runs there any more, delete {lock.path}; "
                    f"else {remedy}"
                )
            raise UserError(f"{directory}: another run writes there{described(lock.path)}; {remedy}")
        if not said:
            said = True
            who = described(lock.path)
            print(f"waiting for the run that still writes to {directory}{who}, at most {patience} seconds", flush=True)
        time.sleep(min(1, max(left, 0)) or 1)


def request_of(directory: Path) -> Path:
    """The file that asks the run in `directory` to save at its next update, and end."""
    return directory / _REQUEST


def ask_to_stop(directory: Path) -> str:
    """Leave the request; who is asked, for people. Raises `UserError` where nobody is there who would look."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such run directory")
    path = directory / _LOCK
    holder = read_holder(path)
    # On a mount that keeps locks for each host alone, nothing but its note shows a run on another host.
    if holder.get("host") in (None, socket.gethostname()) and not _is_locked(path):
        raise UserError(f"{directory}: nothing runs there")
    if holder and not holder.get("can_be_asked"):
        raise UserError(
            f"{directory}: fine-tuning or evaluation{described(path)}: end it by Ctrl-C or kill; what is done is kept"
        )
    write_atomically(request_of(directory), "")
    return f"{directory}{described(path)}"


def _is_locked(path: Path) -> bool:
    """Whether a process has the lock; a file that one has left behind is deleted."""
    if not path.exists():
        return False
    lock = LockFile(path)
    if not lock.acquire():
        return True
    lock.release()
    return False

"""One process at a time in a run directory: the lock, who has it, and how that one is asked to stop."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from megamini.errors import UserError, writing
from megamini.files import write_atomically

_HOLDER, _REQUEST = "running.json", "stop"


@contextmanager
def run_lock(directory: Path, key: str, patience: int = 0, can_be_asked: bool = False) -> Iterator[None]:
    """Make a run directory, and keep any other process out of it. Rank 0 only.

    key: of the recipe, that chooses the folder. patience: seconds to wait for another. can_be_asked: whether
    `request_of` is looked at. Raises `UserError` where another process has the directory.
    """
    with writing(directory, f"{key}: "):
        directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    holder = directory / _HOLDER
    try:
        for second in range(patience + 1):
            if _locked(handle, directory):
                break
            if second == 0 and patience:
                print(f"waiting for the run that still writes to {directory}{_described(directory)}", flush=True)
            time.sleep(min(1, patience - second))
        else:
            raise UserError(
                f"{directory}: another run writes there{_described(directory)}; wait for its end, or give this one "
                "another name"
            )
        request_of(directory).unlink(missing_ok=True)  # that was for an earlier run
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        values = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "can_be_asked": can_be_asked}
        write_atomically(holder, json.dumps(values) + "\n")
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
            request_of(directory).unlink(missing_ok=True)
    finally:
        os.close(handle)


def request_of(directory: Path) -> Path:
    """The file that asks the run in `directory` to save at its next update, and end."""
    return directory / _REQUEST


def ask_to_stop(directory: Path) -> str:
    """Leave the request; who is asked, for people. Raises `UserError` where nobody is there who would look."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such run directory")
    holder = _holder(directory)
    handle = os.open(directory, os.O_RDONLY)
    try:
        free = _locked(handle, directory)
    finally:
        os.close(handle)
    # A lock that another host has may not show on a file system of a cluster; then its note counts.
    if free and holder.get("host") in (None, socket.gethostname()):
        raise UserError(f"{directory}: nothing runs there")
    if holder and not holder.get("can_be_asked"):
        raise UserError(
            f"{directory}: fine-tuning or evaluation{_described(directory)}: end it by Ctrl-C or kill; what is done is "
            "kept"
        )
    write_atomically(request_of(directory), "")
    return f"{directory}{_described(directory)}"


def _locked(handle: int, directory: Path) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"{directory}: cannot be locked: {error.strerror}; choose a folder on a file system that knows locks"
        ) from None
    return True


def _holder(directory: Path) -> dict[str, Any]:
    try:
        values = json.loads((directory / _HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _described(directory: Path) -> str:
    holder = _holder(directory)
    return f" (process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')})" if holder else ""

"""A lock file: one process at a time, on one host or on several that share a file system; it says who has it.

The lock is that of `lockf`, which NFS and Lustre keep for all hosts. Some mounts keep it for each host alone (NFS with
`local_lock`, Lustre with `localflock`). There the holder's heartbeat counts: a number in the file that grows.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from megamini.errors import UserError, writing

_BEAT = 5.0  # seconds
# A holder on another host that has not counted up for so long is gone: longer than a mount may keep an old state.
_SILENCE = 90.0  # seconds
_MOST_BYTES = 2**12
# EACCES is what some systems answer for a lock that another process has.
_HELD, _GONE = {errno.EAGAIN, errno.EACCES}, {errno.ESTALE, errno.ENOENT}

# (device, inode) -> what is in it, of the locks that this process has. The system would give a process its own lock a
# second time, and take it away where the process closes any other descriptor of the file.
_own: dict[tuple[int, int], dict[str, Any]] = {}


class LockFile:
    """One attempt of this process to have the lock `path`. The folder must be there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.took_over: dict[str, Any] = {}
        """What a holder that is gone had left in the file."""
        self.undecided = False
        """Whether it is not known yet if one on another host has the lock: the answer takes a minute or two."""
        self._handle: int | None = None
        self._note: dict[str, Any] = {}
        self._over = threading.Event()
        self._seen: dict[str, Any] = {}
        self._seen_at, self._moved = 0.0, False

    def acquire(self, **values: Any) -> bool:
        """Whether the lock is ours now; other processes then read `values`, beside host, process and time.

        Raises `UserError` where the file cannot be written, or its file system knows no locks.
        """
        if _identity(self.path) in _own:
            return False
        with writing(self.path):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self.undecided = False
            if not self._locked(handle) or not self._is_free(left := _read(handle)):
                os.close(handle)
                return False
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            self._note = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, **values, "beat": 0}
            with writing(self.path):
                os.ftruncate(handle, 0)
                self._write(handle)
        except BaseException:
            os.close(handle)
            raise
        self._handle, self.took_over = handle, left
        _own[_identity(handle)] = self._note
        self._thread = threading.Thread(target=self._beat, name="lock file", daemon=True)
        self._thread.start()
        return True

    def release(self) -> None:
        """Delete the file, and let others have the lock."""
        self._over.set()
        self._thread.join()
        with suppress(OSError):
            if _identity(self.path) == _identity(self._handle):
                self.path.unlink()
        _own.pop(_identity(self._handle), None)
        os.close(self._handle)

    @property
    def silent_for(self) -> float:
        """Seconds for which the holder has been watched without a sign of life."""
        self._watch(read_holder(self.path))
        return time.monotonic() - self._seen_at if self._seen else 0.0

    def _locked(self, handle: int) -> bool:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one who had it may have deleted the file in between: then its name is another file's.
            return _identity(self.path) == _identity(handle)
        except OSError as error:
            if error.errno not in _HELD | _GONE:
                raise UserError(
                    f"{self.path.parent}: cannot be locked: {error.strerror}; choose a folder on a file system that "
                    "knows locks"
                ) from None
        return False

    def _is_free(self, left: dict[str, Any]) -> bool:
        """Whether whoever has `left` a note is gone, now that the lock itself is ours."""
        if left.get("host") in (None, socket.gethostname()):
            return True
        self._watch(left)
        gone = time.monotonic() - self._seen_at >= _SILENCE
        self.undecided = not gone and not self._moved
        return gone

    def _watch(self, note: dict[str, Any]) -> None:
        if note != self._seen:
            self._moved = bool(self._seen)
            self._seen, self._seen_at = note, time.monotonic()

    def _write(self, handle: int) -> None:
        os.pwrite(handle, (json.dumps(self._note) + "\n").encode(), 0)
        os.fsync(handle)

    def _beat(self) -> None:
        while not self._over.wait(_BEAT):
            with suppress(OSError):  # a full disk, a server that is away: the lock itself is still there
                now = _read(self._handle)
                if now != self._note and not self._over.is_set():
                    _end(f"{self.path}: {describe(now) or 'another process'} has the lock now: this one slept too long")
                self._note["beat"] += 1
                self._write(self._handle)


@contextmanager
def exclusive(path: Path, refusal: str) -> Iterator[None]:
    """Have the lock `path`; `UserError` of `refusal` where another process has it."""
    lock = LockFile(path)
    while not lock.acquire():
        if not lock.undecided:
            raise UserError(f"{refusal}{described(path)}")
        time.sleep(1)
    try:
        yield
    finally:
        lock.release()


def read_holder(path: Path) -> dict[str, Any]:
    """What the holder of a lock has written there; empty where there is none, or it is not known."""
    identity = _identity(path)
    if identity in _own:
        return _own[identity]
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return {}
    try:
        return _read(handle)
    finally:
        os.close(handle)


def described(path: Path) -> str:
    """` (process 7 on HOST, since TIME)` of the holder of a lock; empty where that is not known."""
    holder = describe(read_holder(path))
    return f" ({holder})" if holder else ""


def describe(holder: dict[str, Any]) -> str:
    """`process 7 on HOST, since TIME`."""
    return f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}" if holder else ""


def _identity(file: Path | int) -> tuple[int, int] | None:
    try:
        status = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _read(handle: int) -> dict[str, Any]:
    content = os.pread(handle, _MOST_BYTES, 0)
    try:
        values = json.loads(content) if content else {}
    except ValueError:  # being written
        values = None
    return values if isinstance(values, dict) else {"host": "a host", "pid": "unknown", "since": "a time unknown"}


def _end(message: str) -> None:
    print(f"error: {message}; it ends, so that they do not overwrite each other's files", file=sys.stderr, flush=True)
    os._exit(2)

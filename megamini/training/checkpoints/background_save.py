"""One rank's part of a save, in a thread beside the training steps.

Ranks meet on the file system alone, so that no collective runs beside those of the steps: each leaves the description
of its files, or why it failed, next to them, and rank 0 goes on when all have.
"""

import contextlib
import errno
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from megamini.errors import UserError
from megamini.files import write_atomically
from megamini.training.checkpoints.manifest import describe_files
from megamini.training.state.shards import Slice, write_slices

_POLL_SECONDS = 0.05


class BackgroundSave:
    """The writing of one checkpoint on one rank. parts: what it holds, each part for a file of its own."""

    def __init__(self, folder: Path, rank: int, ranks: int, parts: Iterable[list[Slice]]) -> None:
        self._folder, self._rank, self._ranks, self._parts = folder, rank, ranks, parts
        self._abandoned = threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self, publish: Callable[[list[dict[str, Any]]], None]) -> None:
        """Begin to write. `publish`: called on rank 0 with the description of all files, when they are on disk."""
        self._thread = threading.Thread(target=self._run, args=(publish,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait for this rank's part, on rank 0 for the whole. Raises what it failed of, a UserError for a full disk."""
        self._thread.join()
        self.poll()

    def poll(self) -> None:
        """Raise what it has failed of so far."""
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Stop waiting for other ranks; returns when this rank's files are written."""
        self._abandoned.set()
        self._thread.join()

    def _run(self, publish: Callable[[list[dict[str, Any]]], None]) -> None:
        try:
            with one_line_for_a_full_disk(self._folder):
                names = [
                    write_slices(self._folder, self._rank, slices, part).name for part, slices in enumerate(self._parts)
                ]
                self._parts = ()  # its memory is free again
                entries = describe_files(self._folder, names)
                write_atomically(self._note(self._rank), json.dumps({"files": entries}))
                if self._rank == 0:
                    files = self._files_of_all_ranks()
                    if not self._abandoned.is_set():
                        publish(files)
        except Exception as error:  # of any kind: the thread's end would go unnoticed
            self._error = error
            with contextlib.suppress(OSError, UserError):
                write_atomically(self._note(self._rank), json.dumps({"error": str(error) or repr(error)}))

    def _note(self, rank: int) -> Path:
        """What a rank has to say of its files; hidden, and so no part of the checkpoint."""
        return self._folder / f".rank-{rank:05d}.json"

    def _files_of_all_ranks(self) -> list[dict[str, Any]]:
        """Rank 0 only. Raises the UserError of another rank."""
        files = []
        for rank in range(self._ranks):
            while not self._note(rank).is_file() and not self._abandoned.is_set():
                time.sleep(_POLL_SECONDS)
            if self._abandoned.is_set():
                break
            said = json.loads(self._note(rank).read_text(encoding="utf-8"))
            if "error" in said:
                raise UserError(said["error"])
            files += said["files"]
            self._note(rank).unlink()
        return files


@contextlib.contextmanager
def one_line_for_a_full_disk(path: Path) -> Iterator[None]:
    """Writing fails as OSError, or as an error of safetensors that carries its number."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
    except SafetensorError as error:
        full = f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error)
        reason = "the disk is full, or a quota reached" if full else str(error)
    else:
        return
    raise UserError(
        f"{path}: cannot be written: {reason}; free some space there and run the same command again: earlier "
        "checkpoints are whole"
    )

"""Metrics of a run: a line on the console, JSON lines and TensorBoard, with the same numbers, each update once.

After a resume, what was written behind the checkpoint is cut off: `metrics.jsonl` is truncated, and the TensorBoard
events are written anew from it, so that no event is doubled or missing.
"""

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from megamini.errors import UserError, writing
from megamini.files import write_atomically


class Telemetry:
    """Writer of a run's numbers. Rank 0 only; the other ranks use `Silence`."""

    def __init__(self, run_directory: Path, first_update: int, last_update: int) -> None:
        self._metrics_path = run_directory / "metrics.jsonl"
        self._run_directory = run_directory
        kept = _lines_before(self._metrics_path, first_update)
        _write_lines(self._metrics_path, kept)
        shutil.rmtree(run_directory / "tensorboard", ignore_errors=True)
        with writing(self._metrics_path):
            self._metrics = self._metrics_path.open("a", encoding="utf-8")
        with writing(run_directory / "tensorboard"):
            self._board = SummaryWriter(str(run_directory / "tensorboard"))
        for line in kept:
            self._to_board(line)
        self._bar = tqdm(
            total=last_update, initial=first_update, unit="update", dynamic_ncols=True, disable=not sys.stderr.isatty()
        )

    def record(self, update: int, values: dict[str, float]) -> None:
        """Write scalars under their TensorBoard names, as of `update` updates done."""
        line = {"update": update, "time": time.time(), **values}
        with writing(self._metrics_path):
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
        self._to_board(line)

    def flush(self) -> None:
        """Bring the log to disk, as a checkpoint that says these updates are done requires."""
        with writing(self._metrics_path):
            os.fsync(self._metrics.fileno())

    def say(self, text: str) -> None:
        """A line on the console, above the progress bar."""
        # A launcher that is told to stop, and a terminal that closes, take our output away; training goes on to its
        # safe point all the same.
        try:
            tqdm.write(text)
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EIO):
                raise
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (to the end of the process)

    def advance(self, update: int) -> None:
        """Move the progress bar."""
        self._bar.update(update - self._bar.n)

    def write_ledger(self, ledger: dict) -> None:
        """Replace `compute.json`: what the run has cost so far."""
        write_ledger(self._run_directory, ledger)

    def close(self) -> None:
        self._bar.close()
        with writing(self._run_directory / "tensorboard"):
            self._board.close()
        with writing(self._metrics_path):
            self._metrics.close()

    def _to_board(self, line: dict[str, float]) -> None:
        with writing(self._run_directory / "tensorboard"):
            for name, value in line.items():
                if "/" in name:
                    self._board.add_scalar(name, value, line["update"], walltime=line["time"])


class Silence:
    """The telemetry of every rank but the first."""

    def record(self, update: int, values: dict[str, float]) -> None: ...
    def flush(self) -> None: ...
    def say(self, text: str) -> None: ...
    def advance(self, update: int) -> None: ...
    def write_ledger(self, ledger: dict) -> None: ...
    def close(self) -> None: ...


def read_metrics(path: Path) -> Iterator[dict[str, float]]:
    """Lines of a `metrics.jsonl`; a last line that a kill tore is left out."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.endswith("\n"):
                yield _parsed(path, number, line)


def _parsed(path: Path, number: int, line: str) -> dict[str, float]:
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict) or "update" not in values:
        raise UserError(f"{path}: line {number}: not a line of metrics, torn? Remove it, and run the command again")
    return values


def write_ledger(run_directory: Path, ledger: dict) -> None:
    """Replace `compute.json`."""
    write_atomically(run_directory / "compute.json", json.dumps(ledger, indent=2) + "\n")


def _lines_before(path: Path, first_update: int) -> list[dict[str, float]]:
    """What earlier sessions wrote up to the checkpoint that this one starts from: nothing where it begins anew."""
    if not path.exists() or not first_update:
        return []
    return [line for line in read_metrics(path) if line["update"] <= first_update]


def _write_lines(path: Path, lines: list[dict[str, float]]) -> None:
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))

"""Ranks that a test may signal, kill and start again.

They are real processes with the environment of a launcher, forked from a server that has imported everything once,
so that a start takes a second or two instead of ten. Each runs the command `launch/pretrain.py`, or a function.
"""

import contextlib
import multiprocessing
import os
import re
import runpy
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import psutil
import pytest

from tests.device import ranks_that_fit
from tests.integration.launching import DEVICE, ROOT, free_port

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.integration.preloaded"])
ENVIRONMENT = {"OMP_NUM_THREADS": "1", **DEVICE, "PYTHONPATH": str(ROOT)}


class Running(Protocol):
    """A run in progress, started one way or another."""

    def alive(self) -> bool: ...
    def printed(self) -> str: ...


def pretrain(*arguments: str) -> None:
    """`python launch/pretrain.py ARGUMENTS`, in this process."""
    sys.argv = ["launch/pretrain.py", *arguments]
    runpy.run_path(str(ROOT / "launch/pretrain.py"), run_name="__main__")


def with_other_code_on_rank_1(command: Callable[..., None], *arguments: str) -> None:
    """A command on a rank, of which the second is of another version."""
    version = {"code of megamini": os.environ["RANK"]}
    with mock.patch("megamini.training.safety.same_ranks.code_version", lambda: version):
        command(*arguments)


class Ranks:
    """A context in which `ranks` processes run `target(*arguments)`; None is one process without a launcher."""

    def __init__(self, target: Callable[..., None], arguments: Sequence[Any], ranks: int | None, logs: Path) -> None:
        if not ranks_that_fit(ranks or 1):
            pytest.skip(f"{ranks} ranks need as many GPUs")
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        rendezvous = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
        rendezvous["MASTER_PORT"] = str(free_port())
        self.processes = []
        with mock.patch.dict(os.environ, ENVIRONMENT):  # for the server, which the first start starts
            for rank in range(ranks or 1):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **rendezvous} if ranks else {}
                process = _SERVER.Process(target=_be_rank, args=(own, logs / f"rank{rank}.txt", target, arguments))
                process.start()
                self.processes.append(process)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    def alive(self) -> bool:
        """Whether all ranks are running."""
        return all(process.is_alive() for process in self.processes)

    def wait(self, timeout: float = 300) -> list[int | None]:
        """Exit statuses, by rank; None for one that is still running after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def printed(self, rank: int = 0) -> str:
        """stdout and stderr of a rank, so far."""
        return (self.logs / f"rank{rank}.txt").read_text(errors="replace")

    def workers(self, rank: int) -> list[psutil.Process]:
        """The loader's worker processes of a rank."""
        return psutil.Process(self.pids[rank]).children()


def wait_for_update(run_directory: Path, update: int, running: "Running", timeout: float = 240) -> None:
    """Return as soon as the run has logged `update`, or a later one; fail where it ends before."""
    deadline = time.monotonic() + timeout
    while last_update(run_directory) < update:
        assert running.alive(), f"ended before update {update}:\n{running.printed()[-3000:]}"
        assert time.monotonic() < deadline, f"no update {update} within {timeout} s:\n{running.printed()[-3000:]}"
        time.sleep(0.005)


def last_update(run_directory: Path) -> int:
    """The newest update in the log; 0 when there is none."""
    with contextlib.suppress(FileNotFoundError):
        updates = re.findall(r'"update": (\d+),', (run_directory / "metrics.jsonl").read_text())
        return int(updates[-1]) if updates else 0
    return 0


def gone(processes: Sequence[psutil.Process], timeout: float) -> bool:
    """Whether all of `processes` end within `timeout` seconds."""
    _, alive = psutil.wait_procs(processes, timeout)
    return not alive


def _be_rank(environment: dict[str, str], log: Path, target: Callable[..., None], arguments: Sequence[Any]) -> None:
    os.setsid()  # so that all it starts can be killed together
    multiprocessing.set_start_method("fork", force=True)  # loader workers as in a process that no server has started
    os.chdir(ROOT)
    os.environ.update({**ENVIRONMENT, **environment})
    with log.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    target(*arguments)

"""Starting real ranks and commands, and never leaving one behind."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(**extra: str) -> dict[str, str]:
    """One thread per rank, DeepSpeed on the CPU, and nothing of a launcher that may have started pytest itself."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", **extra}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(arguments: Sequence[str], ranks: int, logs: Path, timeout: float) -> str | None:
    """Run `python arguments` as `ranks` ranks; None if all ended well, else what the failed one printed.

    The launcher's own environment variables are set here: it takes four times as long to start.
    """
    logs.mkdir(parents=True)
    rendezvous = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    rendezvous["MASTER_PORT"] = str(free_port())
    processes = []
    try:
        for rank in range(ranks):
            with (logs / f"rank{rank}.txt").open("w") as output:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, *arguments],
                        cwd=ROOT,
                        env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **rendezvous),
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )
        failed = _first_failure(processes, timeout)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if failed is None:
        return None
    return f"rank {failed} failed:\n{(logs / f'rank{failed}.txt').read_text()[-4000:]}"


def run_command(arguments: Sequence[str], timeout: float, **extra: str) -> subprocess.CompletedProcess:
    """Run a command line from the repository root."""
    return subprocess.run(
        arguments, cwd=ROOT, env=environment(**extra), capture_output=True, text=True, timeout=timeout, check=False
    )


def _first_failure(processes: list[subprocess.Popen], timeout: float) -> int | None:
    """Rank of the first process that ended badly or not in time; None when all ended well."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code:
                return rank
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.1)
    return next(rank for rank, process in enumerate(processes) if process.poll() is None)

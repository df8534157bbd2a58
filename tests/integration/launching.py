"""Starting real commands without ever leaving a process behind, and reading what they wrote."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.device import ON_CPU

ROOT = Path(__file__).resolve().parents[2]
# The device of all processes of the suite: that of `pytest --device`.
DEVICE = {"DS_ACCELERATOR": "cuda"} if os.environ.get("DS_ACCELERATOR") == "cuda" else dict(ON_CPU)
_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run_command(arguments: Sequence[str], timeout: float) -> subprocess.CompletedProcess:
    """Run a command line from the repository root; stdout and stderr together.

    All it started is killed when it ends or takes longer than `timeout` seconds, which counts as exit status 124.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _OF_A_LAUNCHER}
    environment = {**kept, "OMP_NUM_THREADS": "1", **DEVICE}
    with subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            code = 124
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(arguments, code, output)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_scalars(run_directory: Path) -> dict[str, dict[int, float]]:
    """Every scalar of `metrics.jsonl`: its name, and its value by update."""
    scalars: dict[str, dict[int, float]] = {}
    for line in (run_directory / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        for name in (key for key in values if "/" in key):
            assert values["update"] not in scalars.setdefault(name, {}), f"{name} twice at update {values['update']}"
            scalars[name][values["update"]] = values[name]
    return scalars

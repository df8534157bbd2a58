"""What the benchmark pages share: the machine in words, a measurement in a process of its own, medians, tables."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cost:
    """What one call cost: processor seconds of all threads, seconds by the clock, bytes above the start at the peak."""

    cpu_seconds: float
    seconds: float
    peak_bytes: int


def cost_of(call: Callable[[], int]) -> Cost:
    """Cost of `call`, which returns the bytes of its result; these are left out of the peak. Linux only."""
    start_peak()
    resident = status_bytes("VmRSS")
    clock, processor = time.perf_counter(), time.process_time()
    returned = call()
    processor, clock = time.process_time() - processor, time.perf_counter() - clock
    return Cost(processor, clock, max(0, status_bytes("VmHWM") - resident - returned))


def free_port() -> int:
    """Where ranks may meet: other runs on the machine may have the launcher's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_peak() -> None:
    """The peak of this process's resident memory (VmHWM) starts anew from here. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


def status_bytes(key: str) -> int:
    """A figure of `/proc/self/status`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def print_cost(cost: Cost) -> None:
    """How a measuring process answers `measure_apart`."""
    print(json.dumps(asdict(cost)))


def measure_apart(script: str, arguments: Sequence[object]) -> Cost:
    """The cost that `script` prints when started with `arguments`: a fresh process, one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def interleaved_medians(
    candidates: dict[str, Callable[[], Cost]], rounds: int, most_cpu_seconds: float
) -> dict[str, tuple[Cost, int]]:
    """(median cost, number of runs) of each candidate; a round runs each once, so that drift meets all alike.

    A candidate that has used `most_cpu_seconds` is not run again.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            if sum(cost.cpu_seconds for cost in costs[name]) < most_cpu_seconds:
                costs[name].append(run())
    return {name: (_median(found), len(found)) for name, found in costs.items()}


def _median(costs: list[Cost]) -> Cost:
    values = {key: statistics.median(getattr(cost, key) for cost in costs) for key in ("cpu_seconds", "seconds")}
    return Cost(**values, peak_bytes=int(statistics.median(cost.peak_bytes for cost in costs)))


def heading(title: str, packages: Iterable[str], point: str = "") -> str:
    """Title, the page's point in a sentence or two, date, hardware, versions and the exact command."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    command = shlex.join(["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]])
    return (
        f"# {title}\n\n"
        f"{point}{point and chr(10) * 2}"
        f"* Date: {datetime.date.today().isoformat()}\n"
        f"* Hardware: {hardware()}; load average at the start {load}\n"
        f"* Versions: Python {platform.python_version()}, {versions}\n"
        f"* Command: `{command}`\n"
    )


def hardware() -> str:
    """Processor, instruction set that decides about low precision, cores and memory."""
    facts = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in facts if line.startswith("model name")), platform.processor())
    flags = next((line for line in facts if line.startswith("flags")), "").split()
    known = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model} ({', '.join(known) or 'no known vector flags'}), {os.cpu_count()} cores, {memory:.0f} GiB"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def mebibytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"

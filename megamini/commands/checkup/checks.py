"""What `tools/doctor.py` checks: packages, GPUs, communication, room on disk."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from megamini.training.engines.build_locks import stale_build_locks

REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements.txt"
# What the logs of several hosts may differ by and still be read together.
_MOST_SKEW = 5.0  # seconds


@dataclass(frozen=True)
class Finding:
    """what: was looked at. says: what was found, and what to do where that is not `ok`."""

    what: str
    ok: bool
    says: str


def examine(runs: Path, need_gb: float) -> tuple[int, list[Finding]]:
    """This process' rank and all findings; on rank 0 with those that several ranks have to make together."""
    found = [_python(), *_packages(), _disk(runs, need_gb), _writable(runs), _locks()]
    if importlib.util.find_spec("deepspeed") is None:
        return 0, [*found, Finding("deepspeed", True, "not installed: this machine can adapt, fine-tune and evaluate")]
    return _together(found)


def _python() -> Finding:
    version = platform.python_version()
    good = tuple(map(int, version.split(".")[:2])) >= (3, 11)
    return Finding("Python", good, version if good else f"{version} is too old; use 3.11 or newer")


def _packages() -> list[Finding]:
    """Installed versions against those that were tested together; without a checkout, against the package's ranges."""
    wrong = []
    for needed in map(Requirement, _requirements()):
        try:
            installed = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing (tested: {_versions(needed)})")
            continue
        if not needed.specifier.contains(installed.partition("+")[0], prereleases=True):
            wrong.append(f"{needed.name} is {installed} (tested: {_versions(needed)})")
    remedy, well = "pip install -r requirements.txt", "the versions that were tested together"
    if not REQUIREMENTS.is_file():
        remedy, well = (
            "pip install what is named",
            "versions that are allowed; not all were tested together",
        )
    return [Finding("packages", not wrong, f"{'; '.join(wrong)}; {remedy}" if wrong else well)]


def _requirements() -> list[str]:
    if REQUIREMENTS.is_file():
        lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if "==" in line]
    return [line for line in importlib.metadata.requires("megamini") or [] if "extra ==" not in line]


def _versions(needed: Requirement) -> str:
    return str(needed.specifier).removeprefix("==")


def _disk(runs: Path, need_gb: float) -> Finding:
    folder = next(path for path in (runs.resolve(), *runs.resolve().parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1e9
    says = f"{free:.0f} GB free at {folder}"
    return Finding("disk", free >= need_gb, says if free >= need_gb else f"{says}, {need_gb:.0f} wanted; free some")


def _writable(runs: Path) -> Finding:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=runs) as file:
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("run directory", False, f"{runs}: {error.strerror}; choose another with training.runs")
    return Finding("run directory", True, f"{runs} can be written")


def _locks() -> Finding:
    locks = stale_build_locks()
    says = f"left by killed builds, remove: {', '.join(map(str, locks))}" if locks else "none is stale"
    return Finding("extension build locks", not locks, says)


def _together(found: list[Finding]) -> tuple[int, list[Finding]]:
    """Join the ranks that the launcher started, or be alone."""
    from megamini.training.engines.deepspeed_engine import end_process_group, on_cpu, start_process_group

    rank, ranks = start_process_group()
    accelerator = "CPU; for a GPU install its build of PyTorch and unset DS_ACCELERATOR" if on_cpu() else _gpu_name()
    found = [*found, Finding("accelerator", True, accelerator)]
    found.append(_attempt("collective", lambda: _sum_over_ranks(rank, ranks)))
    found.append(_attempt("clocks", _skew))
    found = _of_all_ranks(found, ranks)
    end_process_group()
    return rank, found


def _gpu_name() -> str:
    import torch

    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"


def _attempt(what: str, check: Callable[[], tuple[bool, str]]) -> Finding:
    try:
        return Finding(what, *check())
    except RuntimeError as error:
        return Finding(what, False, f"{str(error).splitlines()[0]}; can all hosts reach each other on every port?")


def _sum_over_ranks(rank: int, ranks: int) -> tuple[bool, str]:
    import torch
    from deepspeed.accelerator import get_accelerator
    from torch import distributed

    device = get_accelerator().current_device_name()
    values = torch.full((1_000_000,), float(rank + 1), device=device)
    distributed.all_reduce(values)
    started = time.perf_counter()
    distributed.all_reduce(values)
    total = values[-1].item()
    seconds = time.perf_counter() - started
    right = total == ranks * ranks * (ranks + 1) / 2
    return right, f"{ranks} ranks sum {values.numel() * 4 / 1e6:.0f} MB in {1000 * seconds:.0f} ms" + (
        "" if right else ", and get a wrong sum"
    )


def _skew() -> tuple[bool, str]:
    """Clocks of all ranks, read behind a barrier."""
    from torch import distributed

    distributed.barrier()
    clocks = [0.0] * distributed.get_world_size()
    distributed.all_gather_object(clocks, time.time())
    skew = max(clocks) - min(clocks)
    says = f"{skew:.1f} s apart"
    return skew < _MOST_SKEW, says if skew < _MOST_SKEW else f"{says}; set them by NTP, or logs cannot be compared"


def _of_all_ranks(found: list[Finding], ranks: int) -> list[Finding]:
    """For each check the first rank's finding that is not well, named; else rank 0's. *All ranks.*"""
    from torch import distributed

    everyone: list[list[Finding]] = [[] for _ in range(ranks)]
    distributed.all_gather_object(everyone, found)
    chosen = []
    for row, own in enumerate(everyone[0]):
        bad = next((rank for rank in range(ranks) if not everyone[rank][row].ok), None)
        one = own if bad is None else everyone[bad][row]
        chosen.append(one if not bad else Finding(one.what, one.ok, f"rank {bad}: {one.says}"))
    return chosen

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
from datetime import timedelta
from pathlib import Path

from packaging.requirements import Requirement

from megamini.training.engines.build_locks import stale_build_locks

REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements.txt"
# What the logs of several hosts may differ by and still be read together.
_MOST_SKEW = 5.0  # seconds
# How long a collective may take that is looked at, and how long ranks wait for what the others have found.
_ANSWER, _PATIENCE = 60.0, 180.0  # seconds
_NO_ANSWER = "no answer from the other ranks"
_COUNT = 1_000_000


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
    """Join the ranks that the launcher started, or be alone. All ranks.

    What one rank has found, all learn over gloo, which needs no GPU and so is not what is looked at: none of them goes
    into a check that another has not come to, where it would wait for ever.
    """
    from torch import distributed

    from megamini.training.engines.deepspeed_engine import on_cpu, start_process_group
    from megamini.training.engines.process_group import end_process_group

    rank, ranks = start_process_group()
    judges = distributed.new_group(backend="gloo", timeout=timedelta(seconds=_PATIENCE))
    accelerator = "CPU; for a GPU install its build of PyTorch and unset DS_ACCELERATOR" if on_cpu() else _gpu_name()
    found = [*found, Finding("accelerator", True, accelerator), _attempt("memory of the device", _sums_alone)]
    agreed = _of_all_ranks(found, judges)
    for what, check in (("collective", lambda: _sum_over_ranks(rank, ranks)), ("clocks", lambda: _skew(judges))):
        if all(one.ok for one in agreed[len(found) - 1 :]):
            agreed += _of_all_ranks([_attempt(what, check)], judges)
    if all(one.ok for one in agreed[len(found) - 1 :]):
        end_process_group()  # else a rank may still wait in a collective
    return rank, agreed


def _gpu_name() -> str:
    import torch

    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"


def _attempt(what: str, check: Callable[[], tuple[bool, str]]) -> Finding:
    try:
        return Finding(what, *check())
    except RuntimeError as error:
        return Finding(what, False, f"{str(error).splitlines()[0]}; can all hosts reach each other on every port?")


def _sums_alone() -> tuple[bool, str]:
    """That this rank's device computes, before others wait for it."""
    total = _numbers(1.0).sum().item()
    return total == _COUNT, "can be used" if total == _COUNT else f"sums {_COUNT} ones to {total}"


def _numbers(value: float):
    import torch
    from deepspeed.accelerator import get_accelerator

    return torch.full((_COUNT,), value, device=get_accelerator().current_device_name())


def _sum_over_ranks(rank: int, ranks: int) -> tuple[bool, str]:
    values = _numbers(float(rank + 1))
    _all_reduce(values)
    started = time.perf_counter()
    _all_reduce(values)
    total = values[-1].item()
    seconds = time.perf_counter() - started
    right = total == ranks * ranks * (ranks + 1) / 2
    return right, f"{ranks} ranks sum {values.numel() * 4 / 1e6:.0f} MB in {1000 * seconds:.0f} ms" + (
        "" if right else ", and get a wrong sum"
    )


def _all_reduce(values) -> None:
    """All ranks. Raises RuntimeError where others do not answer: a collective of GPUs would wait for ever."""
    from torch import distributed

    work, deadline = distributed.all_reduce(values, async_op=True), time.monotonic() + _ANSWER
    while not work.is_completed():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{_NO_ANSWER} within {_ANSWER:.0f} s")
        time.sleep(0.0002)
    work.wait()


def _skew(judges) -> tuple[bool, str]:
    """Clocks of all ranks, read behind a barrier."""
    from torch import distributed

    distributed.barrier(judges)
    clocks = [0.0] * distributed.get_world_size()
    distributed.all_gather_object(clocks, time.time(), judges)
    skew = max(clocks) - min(clocks)
    says = f"{skew:.1f} s apart"
    return skew < _MOST_SKEW, says if skew < _MOST_SKEW else f"{says}; set them by NTP, or logs cannot be compared"


def _of_all_ranks(found: list[Finding], judges) -> list[Finding]:
    """For each check the first rank's finding that is not well, named; else rank 0's. *All ranks.*

    A rank with a fault of its own comes before those that it kept waiting.
    """
    from torch import distributed

    ranks = distributed.get_world_size()
    everyone: list[list[Finding]] = [[] for _ in range(ranks)]
    try:
        distributed.all_gather_object(everyone, found, judges)
    except RuntimeError as error:
        return [*found, Finding("ranks", False, f"one does not answer: {str(error).splitlines()[0]}")]
    chosen = []
    for row, own in enumerate(everyone[0]):
        of_check = [(rank, everyone[rank][row]) for rank in range(ranks)]
        faults = sorted((pair for pair in of_check if not pair[1].ok), key=lambda pair: _NO_ANSWER in pair[1].says)
        rank, one = faults[0] if faults else (0, own)
        chosen.append(one if not rank else Finding(one.what, one.ok, f"rank {rank}: {one.says}"))
    return chosen

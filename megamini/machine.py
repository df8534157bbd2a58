"""What a process may use of its machine: its device, and how many cores."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device() -> "torch.device":
    """An NVIDIA or AMD GPU where there is one, else the CPU; a line says so where an Apple GPU is passed over."""
    import torch  # who prepares text asks for cores only, in many processes that need no torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        print("the Apple GPU (mps) is not used: it has no float64, in which losses are summed; this runs on the CPU")
    return torch.device("cpu")


def device_memory() -> int | None:
    """Bytes of the GPU that `best_device` is; None without one."""
    import torch

    return torch.cuda.get_device_properties().total_memory if torch.cuda.is_available() else None


def usable_cores() -> int:
    """Those that the process may run on where the system tells, as Linux does; else all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

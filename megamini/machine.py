"""What a process may use of its machine: its device, in which precision, and how many cores."""

import os
from typing import TYPE_CHECKING

from megamini.errors import UserError

if TYPE_CHECKING:
    import torch


def best_device() -> "torch.device":
    """An NVIDIA or AMD GPU where there is one, else an Apple GPU (mps), else the CPU."""
    import torch  # who prepares text asks for cores only, in many processes that need no torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_of_sums(device: "torch.device") -> "torch.device":
    """Where losses that were computed on `device` are summed in float64: there, or on the CPU, for mps has none."""
    import torch

    return torch.device("cpu") if device.type == "mps" else device


def check_precision(precision: str) -> None:
    """Raise `UserError` for a precision that nobody has tried on the device of this process."""
    if precision != "fp32" and best_device().type == "mps":
        raise UserError(f"training.precision: {precision} was never tried on an Apple GPU (mps); use fp32")


def device_memory() -> int | None:
    """Bytes of the GPU that `best_device` is; None without one."""
    import torch

    return torch.cuda.get_device_properties().total_memory if torch.cuda.is_available() else None


def usable_cores() -> int:
    """Those that the process may run on where the system tells, as Linux does; else all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

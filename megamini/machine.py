"""What a process may use of its machine: its device, in which precision, how many cores; and whether it speaks."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_first_rank() -> bool:
    """Whether this process speaks for all, by what its launcher says; also before the ranks have met."""
    return os.environ.get("RANK", "0") == "0"


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


def gpu_has_bf16() -> bool:
    """Whether the current GPU has units for bf16; older ones only emulate it."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def gpu_has_tf32() -> bool:
    """Whether the current GPU has units for TF32: NVIDIA's from Ampere (compute capability 8.0) on."""
    import torch

    return torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)


def device_memory() -> int | None:
    """Bytes of the GPU that `best_device` is; None without one."""
    import torch

    return torch.cuda.get_device_properties().total_memory if torch.cuda.is_available() else None


def usable_cores() -> int:
    """Those that the process may run on where the system tells, as Linux does; else all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_deterministic_kernels() -> None:
    """Let this process use kernels alone that add in the same order each time; a warning names those that have none.

    Before the first product on a GPU: cuBLAS reads its workspace's size once.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as NVIDIA's documentation of cuBLAS asks
    torch.use_deterministic_algorithms(True, warn_only=True)

"""The device of a process that has one: the one place that chooses it, and knows what an Apple GPU lacks."""

import torch

from megamini.errors import UserError


def best_device() -> torch.device:
    """An NVIDIA or AMD GPU where there is one, else an Apple GPU (mps), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_of_sums(device: torch.device) -> torch.device:
    """Where losses that were computed on `device` are summed in float64: there, or on the CPU, for mps has none."""
    return torch.device("cpu") if device.type == "mps" else device


def check_precision(precision: str) -> None:
    """Raise `UserError` for a precision that nobody has tried on the device of this process."""
    if precision != "fp32" and best_device().type == "mps":
        raise UserError(f"training.precision: {precision} was never tried on an Apple GPU (mps); use fp32")

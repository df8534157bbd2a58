"""The device of a process that has one: the one place that chooses it."""

import torch


def best_device() -> torch.device:
    """An NVIDIA or AMD GPU where there is one, else the CPU; a line says so where an Apple GPU is passed over."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        print("the Apple GPU (mps) is not used: it has no float64, in which losses are summed; this runs on the CPU")
    return torch.device("cpu")

"""The one switch between a suite that runs wholly on the CPU, and one that runs wholly on the GPUs of a machine."""

import os
from collections.abc import MutableMapping

import pytest

# What keeps a process off every GPU, DeepSpeed too.
ON_CPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def choose_device(name: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Before PyTorch looks for devices: `cpu`, or `cuda`. Raises UsageError where there is no GPU."""
    if name == "cpu":
        environment.update(ON_CPU)
        return
    import torch

    if not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: there is no GPU here, or CUDA_VISIBLE_DEVICES hides it")
    environment["DS_ACCELERATOR"] = "cuda"


def ranks_that_fit(ranks: int, environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether so many ranks can run here: NCCL takes no two on one GPU."""
    if environment.get("DS_ACCELERATOR") != "cuda":
        return True
    import torch

    return ranks <= torch.cuda.device_count()

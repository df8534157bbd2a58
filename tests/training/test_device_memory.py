"""A device that is too small ends a run in one line, with the batch, the plan's figure and what to lower."""

import pytest
import torch

from megamini.errors import UserError
from megamini.training.device_memory import enough_memory, memory_scalars

# As PyTorch 2.13 writes it (c10/cuda/CUDACachingAllocator.cpp), and for a CPU.
ON_GPU = (
    "CUDA out of memory. Tried to allocate 1.25 GiB. GPU 0 has a total capacity of 14.58 GiB of which 812.38 MiB is "
    "free. Including non-PyTorch memory, this process has 13.78 GiB memory in use."
)
ON_CPU = (
    "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory: you tried to allocate 64000 bytes."
)


@pytest.mark.parametrize(
    "error, numbers",
    [
        (
            torch.OutOfMemoryError(ON_GPU),
            "1.25 GiB more were asked for, it has 14.58 GiB, of which 812.38 MiB are free",
        ),
        (RuntimeError(ON_CPU), "64000 bytes more were asked for"),
    ],
)
def test_one_line_says_what_did_not_fit(error, numbers):
    with pytest.raises(UserError) as raised, enough_memory("training.micro_batch: 8 blocks", "lower it"):
        raise error
    line = str(raised.value)
    assert line.startswith("training.micro_batch: 8 blocks: out of ") and line.endswith("; lower it")
    assert numbers in line


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="illegal"), enough_memory("", ""):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_peak_and_reserved_stand_beside_the_plan(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 4 * 2**30)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    found = memory_scalars(torch.device("cuda"), 2.5 * 2**30)
    assert found == {"memory/peak_gib": 3.0, "memory/reserved_gib": 4.0, "memory/planned_gib": 2.5}
    assert memory_scalars(torch.device("cpu"), 1) == {}

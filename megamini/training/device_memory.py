"""A device's memory: what a run holds of it, and one line where it does not suffice."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from megamini.errors import UserError

_GIB = 2**30


@contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """Turn an error for lack of memory into one line.

    what: does not fit, with the recipe's key in front. advice: what to lower. Raises UserError.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"{what}: out of GPU memory: {_numbers(str(error))}; {advice}") from None
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(f"{what}: out of memory: {_numbers(str(error))}; {advice}") from None


def memory_scalars(device: torch.device, planned: float) -> dict[str, float]:
    """TensorBoard name -> GiB of this rank's GPU: the most in use since the last call, what PyTorch has reserved, and
    what was planned; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    peak, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    return {
        "memory/peak_gib": peak / _GIB,
        "memory/reserved_gib": reserved / _GIB,
        "memory/planned_gib": planned / _GIB,
    }


def _numbers(message: str) -> str:
    """Of PyTorch's message, what was asked for and what there is."""
    wanted = re.search(r"ried to allocate (\S+ \w+)", message)
    capacity = re.search(r"total capacity of (\S+ \w+) of which (\S+ \w+) is free", message)
    parts = [f"{wanted[1]} more were asked for"] if wanted else []
    parts += [f"it has {capacity[1]}, of which {capacity[2]} are free"] if capacity else []
    return ", ".join(parts) or message.splitlines()[0]

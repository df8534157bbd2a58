"""Where the ranks of a launcher meet, and which GPU each of them uses; without DeepSpeed."""

import os

import torch
from torch import distributed

from megamini.errors import UserError


def environment_of_one() -> None:
    """What a launcher would have said to a process that has none: it is the only rank."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", "0" if os.environ["WORLD_SIZE"] == "1" else "29500")


def ranks_on_this_node() -> int:
    """As the launcher says; DeepSpeed's and torchrun's names differ."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))


def is_first_rank() -> bool:
    """Whether this process speaks for all, by what its launcher says; also before the ranks have met."""
    return os.environ.get("RANK", "0") == "0"


def use_own_gpu() -> None:
    """Make the GPU of this rank's number on its node the current one, before anything else asks for a GPU.

    Collectives, buffers and pinned memory go to the current GPU, which is the first one in every process until somebody
    says otherwise: ranks would share it, or wait for each other for ever. Raises UserError where there is none.
    """
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"LOCAL_RANK {number}: this process sees {count} GPU{'s' * (count != 1)}, and rank {number} of a node uses "
            f"number {number}; start no more ranks on a node than it has GPUs, and let every rank see all of them "
            "(CUDA_VISIBLE_DEVICES; with Slurm --gpus-per-node, not --gpus-per-task)"
        )
    torch.cuda.set_device(number)


def cannot_meet(error: distributed.DistNetworkError) -> UserError:
    """The line for ranks that do not find one another."""
    port = int(os.environ["MASTER_PORT"])
    return UserError(
        f"{os.environ['MASTER_ADDR']}:{port}: ranks cannot meet there: {error}; where another run has the port, "
        f"give this one another, such as --master_port {port + 1}"
    )


def end_process_group() -> None:
    """All ranks: leave the group while all are there; its threads must not meet the end of the process."""
    distributed.barrier()
    distributed.destroy_process_group()

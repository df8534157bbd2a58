"""Where the ranks of a launcher meet, and which GPU each of them uses; without DeepSpeed."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any

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


def join_ranks(patience: timedelta) -> tuple[int, int]:
    """Meet the ranks that a launcher (torchrun) has started, each on the GPU of its number, over NCCL; over gloo where
    there is none. Returns rank and number of ranks: 0 and 1 without a launcher, or with one rank, which needs no group.

    patience: how long a rank waits for another one. Raises UserError where rank 0 cannot be reached, or there is no GPU
    for this rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        use_own_gpu()
    try:
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=patience)
    except distributed.DistNetworkError as error:
        raise cannot_meet(error) from None
    return distributed.get_rank(), distributed.get_world_size()


def from_rank_0(value: Any) -> Any:
    """What rank 0 has, on every rank. *All ranks.* The value itself without a group."""
    if not distributed.is_initialized():
        return value
    held = [value]
    distributed.broadcast_object_list(held)
    return held[0]


@contextmanager
def on_rank_0(context: AbstractContextManager[Any]) -> Iterator[None]:
    """A context that rank 0 alone enters. *All ranks.* Where it refuses with a `UserError`, all ranks raise that: none
    goes on to wait for a rank that has ended."""
    refusal = None
    with ExitStack() as entered:
        if not distributed.is_initialized() or distributed.get_rank() == 0:
            try:
                entered.enter_context(context)
            except UserError as error:
                refusal = str(error)
        refusal = from_rank_0(refusal)
        if refusal is not None:
            raise UserError(refusal)
        yield


def gather_objects(value: Any) -> list[Any]:
    """What each rank has, in their order. *All ranks.* The value alone without a group."""
    if not distributed.is_initialized():
        return [value]
    gathered = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, value)
    return gathered


def cannot_meet(error: distributed.DistNetworkError) -> UserError:
    """The line for ranks that do not find one another."""
    port = int(os.environ["MASTER_PORT"])
    return UserError(
        f"{os.environ['MASTER_ADDR']}:{port}: ranks cannot meet there: {error}; where another run has the port, "
        f"give this one another, such as --master_port {port + 1}"
    )


def end_process_group() -> None:
    """All ranks: leave the group, if there is one, while all are there; its threads must not meet the end of the
    process."""
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()

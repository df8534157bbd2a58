"""Optimizer states on disk, DeepSpeed's offload to NVMe: a folder of the run's own, with room, gone at its end."""

import os
import shutil
from pathlib import Path

from deepspeed.ops.op_builder import AsyncIOBuilder

from megamini.errors import UserError, writing
from megamini.training.build_locks import refuse_stale_build_lock

_KEY = "zero_optimization.offload_optimizer.nvme_path"
# A weight, two moments and a gradient in fp32.
_BYTES_PER_PARAMETER = 16


def prepare_swap_folder(folder: Path, rank: int, parameters: int) -> None:
    """Make room for a rank. parameters: how many lie on this node.

    Raises `UserError` where the folder cannot be made, the disk is too full or libaio is missing, which DeepSpeed
    reads and writes by.
    """
    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise UserError(
            "zero_optimization.offload_optimizer.device: nvme needs libaio with its headers (on Debian and Ubuntu "
            "libaio-dev); install that on every node, or use cpu"
        )
    refuse_stale_build_lock("async_io")
    own = folder / "zero_stage_3" / "optimizer" / f"rank{rank}"  # as DeepSpeed 0.19.8 names it
    with writing(folder, f"{_KEY}: "):
        shutil.rmtree(own, ignore_errors=True)  # what a killed run has left
        own.mkdir(parents=True)
    free, needed = shutil.disk_usage(folder).free, _BYTES_PER_PARAMETER * parameters
    if free < needed:
        raise UserError(
            f"{_KEY}: {folder} has {free / 2**30:.1f} GiB free, the states on this node need {needed / 2**30:.1f}; "
            "give a folder on a larger disk"
        )


def remove_swap_folder(folder: Path) -> None:
    """All ranks are done."""
    shutil.rmtree(folder, ignore_errors=True)


def ranks_on_this_node() -> int:
    """As the launcher says; DeepSpeed's and torchrun's names differ."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))

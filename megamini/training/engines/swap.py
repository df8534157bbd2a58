"""Optimizer states on disk, DeepSpeed's offload to NVMe: a folder of the run's own, with room, gone at its end."""

import contextlib
import mmap
import os
import shutil
from pathlib import Path

from deepspeed.ops.op_builder import AsyncIOBuilder

from megamini.errors import UserError, writing
from megamini.training.engines.build_locks import refuse_stale_build_lock

_KEY = "zero_optimization.offload_optimizer.nvme_path"
_PROBE_BYTES = 4096  # direct writes come in whole blocks of the disk


def own_folder(folder: Path, rank: int) -> Path:
    """Where DeepSpeed 0.19.8 keeps the states of a rank."""
    return folder / "zero_stage_3" / "optimizer" / f"rank{rank}"


def clear_swap_folder(folder: Path) -> None:
    """One rank of each node, before the others make their folders: remove what a killed run has left, of any rank."""
    shutil.rmtree(folder, ignore_errors=True)


def state_bytes(parameters: int, muon: int) -> int:
    """A weight, a gradient and two moments in fp32, or one for those of the parameters that Muon moves."""
    return 16 * parameters - 4 * muon


def prepare_swap_folder(folder: Path, rank: int, needed: int) -> None:
    """Make a rank's folder, once `clear_swap_folder` has made room. needed: bytes of the states on this node.

    Raises `UserError` where the folder cannot be made or written to directly, the disk is too full, or libaio is
    missing, by which DeepSpeed reads and writes.
    """
    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise UserError(
            "zero_optimization.offload_optimizer.device: nvme needs libaio with its headers (on Debian and Ubuntu "
            "libaio-dev); install that on every node, or use cpu"
        )
    for extension in ("pin_memory", "async_io"):
        refuse_stale_build_lock(extension)
    own = own_folder(folder, rank)
    with writing(folder, f"{_KEY}: "):
        own.mkdir(parents=True, exist_ok=True)
        _write_directly(own / "probe")
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{_KEY}: {folder} has {free / 2**30:.1f} GiB free, the states on this node need {needed / 2**30:.1f}; "
            "give a folder on a larger disk"
        )


def remove_swap_folder(folder: Path, rank: int) -> None:
    """What a rank has, and the folders above where it was the last."""
    own = own_folder(folder, rank)
    shutil.rmtree(own, ignore_errors=True)
    with contextlib.suppress(OSError):  # another rank still has its own
        for above in list(own.parents)[:3]:
            above.rmdir()


def _write_directly(path: Path) -> None:
    """As DeepSpeed writes, past the page cache, which not every file system can. Raises OSError."""
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, _PROBE_BYTES) as block:  # aligned, as direct writes have to be
            os.write(handle, block)
    finally:
        os.close(handle)
        path.unlink()

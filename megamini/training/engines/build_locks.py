"""Locks of PyTorch's extension builds: one that a killed build has left makes every later run wait for ever."""

import os
import time
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

from megamini.errors import UserError

# A build takes a minute or two.
_STALE = 15 * 60.0  # seconds


def stale_build_locks(name: str = "*") -> list[Path]:
    """Locks of extensions called `name` that no living build can hold any more."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    locks = [*root.glob(f"{name}/lock"), *root.glob(f"*/{name}/lock")]
    return sorted({lock for lock in locks if time.time() - lock.stat().st_mtime > _STALE})


def refuse_stale_build_lock(name: str) -> None:
    """Raise `UserError` where the build of an extension would be waited for in vain."""
    for lock in stale_build_locks(name):
        raise UserError(f"{lock}: left by a build that was killed; the run would wait for it for ever; remove it")

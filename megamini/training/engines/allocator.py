"""What the C library does with memory that is freed."""

import ctypes
import sys

# The GNU C library's parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let this process keep large blocks that are freed for the next that is asked for, from now on.

    The GNU C library gives every block of 32 MiB and more back to the system at once: at base shape a third of a
    million pages and more an update are mapped and zeroed anew, 5 to 20% of its time on two cores. What was once
    needed stays with the process, in holes too: so not for ranks, of which several share a machine's memory. With
    other C libraries nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never

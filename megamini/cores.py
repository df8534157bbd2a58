"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """Those that the process may run on where the system tells, as Linux does; else all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

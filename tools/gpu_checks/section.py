"""One section of `tools/gpu_check.py`, in a process of its own.

python -m tools.gpu_checks.section NAME SHAPE WORK ROWS
"""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

from tools.gpu_checks.context import Context

OUT_OF_TIME = 75  # status of a section that its time did not suffice for


def main() -> None:
    name, shape, work, rows = sys.argv[1:]
    try:
        import_module(f"tools.gpu_checks.{name}").run(Context(shape, Path(work), Path(rows)))
    except subprocess.TimeoutExpired:  # a command that had what was left of the section's time
        sys.exit(OUT_OF_TIME)


if __name__ == "__main__":
    main()

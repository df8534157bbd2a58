"""One section of `tools/gpu_check.py`, in a process of its own.

python -m tools.gpu_checks.section NAME SHAPE WORK ROWS
"""

import sys
from importlib import import_module
from pathlib import Path

from tools.gpu_checks.context import Context


def main() -> None:
    name, shape, work, rows = sys.argv[1:]
    import_module(f"tools.gpu_checks.{name}").run(Context(shape, Path(work), Path(rows)))


if __name__ == "__main__":
    main()

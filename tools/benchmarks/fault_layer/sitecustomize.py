"""What `faults.py` puts under a run, by PYTHONPATH: a journal of what reaches the disk, and a loss that is no number.

FAULT_JOURNAL: file to which every flush and rename is written, in order, so that a power cut can be played afterwards.
FAULT_NONFINITE: `RANK:N`, the N-th training loss of that rank becomes NaN.
"""

import os
import sys
from pathlib import Path


def _journal(path: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    flush = os.fsync

    def fsync(file) -> None:
        flush(file)
        number = file if isinstance(file, int) else file.fileno()
        name, size = Path(f"/proc/self/fd/{number}").readlink(), os.fstat(number).st_size
        os.write(handle, f"flush\t{size}\t{name}\n".encode())

    def on_event(event: str, arguments: tuple) -> None:
        if event == "os.rename":
            source, target = (Path(one).absolute() for one in arguments[:2])
            os.write(handle, f"rename\t{source}\t{target}\n".encode())

    os.fsync = fsync
    sys.addaudithook(on_event)


def _nonfinite(rank: str, number: int) -> None:
    if os.environ.get("RANK") != rank:
        return
    import megamini.models.build as build

    original, seen = build.build_primary, [0]

    def build_primary(*arguments):
        model = original(*arguments)

        def spoil(module, _, output):
            if module.training:
                seen[0] += 1
            factor = float("nan") if module.training and seen[0] == number else 1.0
            return output[0] * factor, output[1] * factor

        model.register_forward_hook(spoil)
        return model

    build.build_primary = build_primary


if "FAULT_JOURNAL" in os.environ:
    _journal(os.environ["FAULT_JOURNAL"])
if "FAULT_NONFINITE" in os.environ and "RANK" in os.environ:
    _nonfinite(*(f(x) for f, x in zip((str, int), os.environ["FAULT_NONFINITE"].split(":"), strict=True)))

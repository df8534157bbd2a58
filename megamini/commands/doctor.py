"""Check an environment before a long run, and print what to mend.

python tools/doctor.py                                   # this machine
deepspeed --hostfile HOSTS tools/doctor.py               # also: do all ranks reach each other, do their clocks agree

Exit status 0 if there is nothing to mend, else 2.
"""

import argparse
from pathlib import Path

from megamini.errors import CommandParser, UserError, run_command


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where runs will be written (default: runs)")
    parser.add_argument(
        "--need-gb", type=float, default=10.0, metavar="N", help="disk space wanted there (default: 10)"
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    options = parser.parse_args()

    from megamini.commands.checkup import checks

    rank, found = checks.examine(Path(options.runs), options.need_gb)
    if rank == 0:
        for one in found:
            print(f"{'ok  ' if one.ok else 'MEND'}  {one.what}: {one.says}")
    to_mend = [one.what for one in found if not one.ok]
    if to_mend and rank == 0:
        raise UserError(f"{len(to_mend)} to mend: {', '.join(to_mend)}")
    if to_mend:
        raise SystemExit(2)


if __name__ == "__main__":
    run_command(main)

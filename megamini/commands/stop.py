"""Ask one run to save at its next update and end; all others go on. From any host that sees its folder.

python tools/stop.py runs/quickstart-en

The same command that started the run continues it.
"""

from pathlib import Path

from megamini.errors import CommandParser, run_command


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of a run of pretraining or adaptation")
    arguments = parser.parse_args()

    from megamini.training.safety.run_lock import ask_to_stop

    print(f"asked to stop at its next update: {ask_to_stop(arguments.run)}")


if __name__ == "__main__":
    run_command(main)

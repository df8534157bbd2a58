"""Tasks for lm-eval out of task files or plain text: `python tools/likelihood_tasks.py --help` says how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout, without installing

from megamini.commands.likelihood_tasks import main
from megamini.errors import run_command

__all__ = ["main"]

if __name__ == "__main__":
    run_command(main)

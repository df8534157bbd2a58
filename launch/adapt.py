"""Teach a pretrained model a new language: `python launch/adapt.py --help` says how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout, without installing

from megamini.training.safety.signals import hold_scheduler_signal

hold_scheduler_signal()  # before the imports, which take long on a cluster

from megamini.commands.adapt import main  # noqa: E402
from megamini.errors import run_command  # noqa: E402

__all__ = ["main"]

if __name__ == "__main__":
    run_command(main)

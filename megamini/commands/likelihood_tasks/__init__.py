"""Tasks for EleutherAI's lm-eval, out of tasks that are read here and out of plain text."""

from megamini.commands.likelihood_tasks.command import main

__all__ = ["main"]

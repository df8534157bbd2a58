"""The command that makes a word list."""

from megamini.commands.word_list.command import main

__all__ = ["main"]

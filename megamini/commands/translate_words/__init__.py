"""The command that makes pseudo text, and pseudo labelled data, word by word."""

from megamini.commands.translate_words.command import main

__all__ = ["main"]

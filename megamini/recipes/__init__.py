"""Typed recipes: their sections, the file and the changes to it, every option, the command line."""

"""Sections of `tools/report.py`, each a piece of Markdown with its plots."""

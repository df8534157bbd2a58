"""Sections of `tools/report.py`, each a part in Markdown with its plots."""

"""Names and texts of others inside Markdown and HTML: shown as they are written, and never markup."""

import re

_MARKS = re.compile(r"[\\`*\[\]|]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def plain(text: object) -> str:
    """`text` on one line as Markdown that shows it and does nothing else."""
    line = " ".join("".join(one if one.isprintable() else " " for one in str(text)).split())
    for mark, entity in _ENTITIES.items():
        line = line.replace(mark, entity)
    return _MARKS.sub(lambda mark: f"\\{mark[0]}", line)

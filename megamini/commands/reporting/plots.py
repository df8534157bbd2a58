"""Plots in one style, without a display."""

import hashlib
import re
from pathlib import Path
from typing import Any

_NAME_CHARACTERS = 100


def new_plot(x: str, y: str, title: str) -> tuple[Any, Any]:
    """A matplotlib figure and its axes."""
    figure, axes = _pyplot().subplots(figsize=(7, 4))
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    return figure, axes


def new_grid(rows: int, columns: int) -> tuple[Any, Any]:
    """A figure of small panels over one x axis, and their axes [rows, columns]."""
    return _pyplot().subplots(rows, columns, figsize=(2.6 * columns, 2.4 * rows), sharex=True, squeeze=False)


def plot_name(*parts: str) -> str:
    """A file's name out of names of runs, tasks and languages, whatever they hold."""
    name = "-".join(parts)
    safe = re.sub(r"[^\w.-]", "_", name)[:_NAME_CHARACTERS]
    if safe != name:  # two names must not become one
        safe += f"-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return f"{safe}.png"


def save_plot(figure: Any, path: Path) -> Path:
    """Write the figure as PNG and forget it."""
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    _pyplot().close(figure)
    return path


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a dollar sign in a name begins no formula
    from matplotlib import pyplot

    return pyplot

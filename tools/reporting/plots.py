"""Plots of one look, without a display."""

from pathlib import Path
from typing import Any


def new_plot(x: str, y: str, title: str) -> tuple[Any, Any]:
    """A matplotlib figure and its axes."""
    figure, axes = _pyplot().subplots(figsize=(7, 4))
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    return figure, axes


def new_grid(rows: int, columns: int) -> tuple[Any, Any]:
    """A figure of small panels over one x axis, and their axes [rows, columns]."""
    return _pyplot().subplots(rows, columns, figsize=(2.6 * columns, 2.4 * rows), sharex=True, squeeze=False)


def save_plot(figure: Any, path: Path) -> Path:
    """Write the figure as PNG and forget it."""
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    _pyplot().close(figure)
    return path


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot

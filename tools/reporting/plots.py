"""Plots of one look, without a display."""

from pathlib import Path
from typing import Any


def new_plot(x: str, y: str, title: str) -> tuple[Any, Any]:
    """A matplotlib figure and its axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    return figure, axes


def save_plot(figure: Any, path: Path) -> Path:
    """Write the figure as PNG and forget it."""
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path

"""Quality against compute along the way: a figure a task, a row a start, a panel a language."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megamini.commands.reporting.evaluation import EvaluationRecord
from megamini.commands.reporting.plots import new_grid, save_plot
from megamini.commands.reporting.quality import Curve, curves
from megamini.downstream.evaluation.reference_lines import SURFACE, WORD_BY_WORD
from megamini.downstream.results import means
from tools.study.grid import Study
from tools.study.pooling import MEAN, with_mean
from tools.study.speeds import references

_LINE_STYLES = {SURFACE: ":", WORD_BY_WORD: "-."}


def plots(record: EvaluationRecord, study: Study, out: Path) -> str:
    """Writes them into a folder; Markdown that shows them. Only series that have all languages of standard adaptation
    from their start, and only starts that have such a series in several languages."""
    of, images = curves([record]), []
    lines = {(m.task, m.language, m.pack): m.mean for m in means(record.results) if m.pack in _LINE_STYLES}
    for task in dict.fromkeys(curve.task for curve in of):
        rows = _rows(task, of, study)
        if rows:
            images.append(_figure(task, rows, lines, out))
    return "\n\n".join(f"![{path.stem}]({path.relative_to(out.parent)})" for path in images)


def _rows(task: str, of: Sequence[Curve], study: Study) -> dict[str, list[Curve]]:
    """Start -> the curves to draw, those of the mean of languages among them."""
    rows = {}
    for start, reference in references(study).items():
        languages = {curve.language for curve in of if (curve.task, curve.series) == (task, reference)}
        names = [name for name, one in study.series.items() if one.start == start]
        of_row = [c for c in with_mean(of, reference) if c.task == task and c.language in {*languages, MEAN}]
        whole = [name for name in names if {c.language for c in of_row if c.series == name} >= languages]
        if len(languages) > 1 and len(whole) > 1:
            # In the study's order, so that standard adaptation has the same colour in all rows.
            rows[start] = sorted((c for c in of_row if c.series in whole), key=lambda c: whole.index(c.series))
    return rows


def _figure(
    task: str, rows: Mapping[str, Sequence[Curve]], lines: Mapping[tuple[str, str, str], float], out: Path
) -> Path:
    drawn = [curve for row in rows.values() for curve in row]
    languages = [*sorted({curve.language for curve in drawn} - {MEAN}), MEAN]
    figure, grid = new_grid(len(rows), len(languages))
    for panels, (start, row) in zip(grid, rows.items(), strict=True):
        for axes, language in zip(panels, languages, strict=True):
            here = [curve for curve in row if curve.language == language]
            if not here:
                axes.set_visible(False)
                continue
            _panel(axes, task, language, here, lines)
        first = panels[min(languages.index(curve.language) for curve in row)]
        first.set_ylabel(f"{start}\n{row[0].metric}")
        handles, labels = first.get_legend_handles_labels()
        panels[-1].legend(handles, labels, fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    for axes, language in zip(grid[0], languages, strict=True):
        axes.set_title(language)
    figure.supxlabel("FLOPs of adaptation", fontsize=9)
    return save_plot(figure, out / f"{task}.png")


def _panel(
    axes: Any, task: str, language: str, of: Sequence[Curve], lines: Mapping[tuple[str, str, str], float]
) -> None:
    series = {curve.series: curve for curve in of}
    for number, curve in enumerate(series.values()):
        xs, ys = zip(*curve.against("flops"), strict=True)
        # A curriculum begins with the series that it goes on from, which is drawn over it.
        axes.plot(
            xs, ys, "o-", markersize=2.5, linewidth=1.2, color=f"C{number}", label=curve.series, zorder=9 - number
        )
    for line, style in _LINE_STYLES.items():
        if (task, language, line) in lines:
            axes.axhline(lines[task, language, line], color="grey", linestyle=style, linewidth=1, label=line)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=7)

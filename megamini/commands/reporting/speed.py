"""Quality against compute in tables and plots: standard, MiniJoint, MiniPost and small, side by side."""

import math
from collections.abc import Sequence
from pathlib import Path

from megamini.commands.reporting.evaluation import EvaluationRecord
from megamini.commands.reporting.plots import new_plot, plot_name, save_plot
from megamini.commands.reporting.quality import COSTS, SHARES, Curve, Reached, average_speed_up, curves, reached
from megamini.commands.reporting.tables import plain_table
from megamini.markup import plain

_UNITS = {"flops": "FLOPs", "seconds": "seconds"}


def speed_section(records: Sequence[EvaluationRecord], out: Path) -> str:
    """Markdown on all evaluations together, with a plot for each task and language; empty without any curve."""
    of = curves(records)
    tasks = dict.fromkeys(curve.task for curve in of)
    parts = [_task(task, [curve for curve in of if curve.task == task], records, out) for task in tasks]
    return "\n\n".join(["## Quality against compute", *parts]) if parts else ""


def _task(task: str, of: list[Curve], records: Sequence[EvaluationRecord], out: Path) -> str:
    languages = dict.fromkeys(curve.language for curve in of)
    plots = [
        _plot(task, language, [curve for curve in of if curve.language == language], records, out)
        for language in languages
    ]
    images = [
        f"![{plain(task)} in {plain(language)} against compute]({plot.name})"
        for language, plot in zip(languages, plots, strict=True)
    ]
    rows = reached(of)
    lines = [f"### {plain(task)}", "", *images, ""]
    if rows:
        lines += [
            "What a series needs to reach a share of standard adaptation's best gain over the untrained pack. The "
            "speed-up says how many times less that is than standard adaptation needs. Both are read on straight lines "
            "between the measured packs. '-': not reached. There is one run of each: differences within the intervals "
            "of the accuracies may be chance.",
            "",
            plain_table(["series", "language", "of standard's best", "target", *_titles()], _rows(rows, languages)),
        ]
    elif any(curve.method == "standard" for curve in of):
        lines.append("There is no speed-up here: standard adaptation does not gain over its untrained pack.")
    return "\n".join(lines)


def _titles() -> list[str]:
    return [title for cost in COSTS for title in (_UNITS[cost], f"speed-up in {_UNITS[cost]}")]


def _rows(rows: list[Reached], languages: dict[str, None]) -> list[list[str]]:
    """A row for each series, language and share, and the geometric mean over languages where there are several."""
    lines = []
    for series in dict.fromkeys(row.curve.series for row in rows):
        own = [row for row in rows if row.curve.series == series]
        for share in SHARES:
            here = [row for row in own if row.share == share]
            for row in here:
                costs = [text for cost in COSTS for text in (_cost(row.costs[cost]), _ratio(row.speed_up[cost]))]
                lines.append([series, row.curve.language, f"{share:.0%}", f"{row.target:.3f}", *costs])
            if len(here) > 1:
                means = [text for cost in COSTS for text in ("", _ratio(average_speed_up(here, cost)))]
                lines.append([series, "average", f"{share:.0%}", "", *means])
    return lines


def _cost(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return "at once" if math.isinf(value) else f"{value:.2f}"


def _plot(task: str, language: str, of: list[Curve], records: Sequence[EvaluationRecord], out: Path) -> Path:
    figure, axes = new_plot("FLOPs of adaptation", f"{task} ({of[0].metric})", f"{task} in {language}")
    for curve in of:
        points = curve.against("flops")
        deviations = [point.deviation or 0.0 for point in curve.points]
        axes.errorbar(*zip(*points, strict=True), yerr=deviations, marker="o", capsize=3, label=curve.series)
    for line, value in _lines(task, language, records).items():
        axes.axhline(value, color="grey", linestyle={"surface": ":", "in-language": "--"}.get(line, "-"), label=line)
    axes.legend()
    return save_plot(figure, out / plot_name(task, language))


def _lines(task: str, language: str, records: Sequence[EvaluationRecord]) -> dict[str, float]:
    """What was measured in this language by other means than packs of a series."""
    return {
        result.pack: result.values[result.metric]
        for record in records
        for result in record.results
        if (result.task, result.language) == (task, language) and result.pack and result.learned is None
    }

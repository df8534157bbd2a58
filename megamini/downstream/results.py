"""Results: one entry a measurement, means and deviations over seeds, and tables for people."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megamini.training.telemetry import write_atomically


@dataclass(frozen=True)
class Result:
    """One model on one task in one language.

    values: metric -> value, fractions but for bits per byte. metric: the headline one. n: number of examples. pack: the
    plugged one, by name; None for the source language's own embeddings. seed: None where a model has none.
    """

    task: str
    language: str
    metric: str
    values: dict[str, float]
    n: int
    model: str
    pack: str | None = None
    seed: int | None = None
    split: str | None = None

    def entry(self) -> dict[str, Any]:
        """The entry of `results.json`: {task, language, <metric>: value, n, model, pack, seed, split, metric}."""
        return {
            "task": self.task,
            "language": self.language,
            **self.values,
            "n": self.n,
            "model": self.model,
            "pack": self.pack,
            "seed": self.seed,
            "split": self.split,
            "metric": self.metric,
        }


@dataclass(frozen=True)
class Mean:
    """The headline metric over the seeds: mean, and sample standard deviation where there are several."""

    task: str
    language: str
    pack: str | None
    metric: str
    mean: float
    deviation: float | None
    seeds: int
    n: int


def means(results: Iterable[Result]) -> list[Mean]:
    """One mean for each task, language and pack, in order of appearance."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, result.language, result.pack), []).append(result)
    return [_mean(group) for group in groups.values()]


def _mean(group: Sequence[Result]) -> Mean:
    values = [result.values[result.metric] for result in group]
    first = group[0]
    return Mean(
        first.task,
        first.language,
        first.pack,
        first.metric,
        statistics.fmean(values),
        statistics.stdev(values) if len(values) > 1 else None,
        len(values),
        first.n,
    )


def write_results(directory: Path, results: Sequence[Result], table: str) -> None:
    """`results.json` (every measurement), `summary.json` (means and deviations over seeds) and `table.md`."""
    summary = [mean.__dict__ for mean in means(results)]
    for name, values in (("results.json", [result.entry() for result in results]), ("summary.json", summary)):
        write_atomically(directory / name, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    write_atomically(directory / "table.md", table + "\n")


def table_of(results: Sequence[Result], source_language: str) -> str:
    """Markdown: a row for each language and pack, a column for each task; the source language first, then the others,
    then the average of each task over its target languages, one row a pack name where a language has several."""
    summary = means(results)
    tasks = list(dict.fromkeys(mean.task for mean in summary))
    cells = {(mean.language, mean.pack, mean.task): mean for mean in summary}
    rows = list(dict.fromkeys((mean.language, mean.pack) for mean in summary))
    rows.sort(key=lambda row: row != (source_language, None))
    metrics = {mean.task: mean.metric for mean in summary}
    lines = [[_row_name(*row), *(_cell(cells.get((*row, task))) for task in tasks)] for row in rows]
    targets = [row for row in rows if row[0] != source_language]
    if len(targets) > 1:
        lines.append(["average without source", *(_average(cells, targets, task) for task in tasks)])
    header = ["language", *(f"{task} ({_UNITS.get(metrics[task], metrics[task])})" for task in tasks)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---", *["---:"] * len(tasks)], *lines])


# Fractions are printed in percent, bits as they are.
_UNITS = {"bits_per_byte": "bits per byte", "accuracy": "accuracy", "f1": "F1"}


def _row_name(language: str, pack: str | None) -> str:
    return language if pack in (None, language) else f"{language} ({pack})"


def _number(value: float, metric: str) -> str:
    return f"{value:.3f}" if metric == "bits_per_byte" else f"{100 * value:.1f}"


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return ""
    spread = "" if mean.deviation is None else f" ± {_number(mean.deviation, mean.metric)}"
    return _number(mean.mean, mean.metric) + spread


def _average(cells: dict, rows: Sequence[tuple], task: str) -> str:
    present = [cells[(*row, task)] for row in rows if (*row, task) in cells]
    if not present:
        return ""
    return _number(statistics.fmean(mean.mean for mean in present), present[0].metric)

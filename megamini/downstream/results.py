"""Results: one entry a measurement, means and deviations over seeds, and tables for people."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megamini.training.telemetry import write_atomically

# A language and the name of the pack that speaks it.
_Row = tuple[str, str | None]


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
    """Markdown: a row for each language and pack, a column for each task; the source language first, and last the
    averages over the target languages, one for each family of packs (mini-de and mini-es are of the family mini)."""
    summary = means(results)
    metrics = {mean.task: mean.metric for mean in summary}
    cells = {(mean.language, mean.pack, mean.task): mean for mean in summary}
    rows = list(dict.fromkeys((mean.language, mean.pack) for mean in summary))
    rows.sort(key=lambda row: row != (source_language, None))
    lines = [[_row_name(*row), *(_cell(cells.get((*row, task))) for task in metrics)] for row in rows]
    families: dict[str, list[_Row]] = {}
    for language, pack in rows:
        if pack is not None:
            families.setdefault(_family(language, pack), []).append((language, pack))
    for family, members in families.items():
        if len(members) > 1:
            name = f"average ({family})" if family else "average"
            lines.append([name, *(_average(cells, members, task) for task in metrics)])
    header = ["language", *(f"{task} ({_UNITS.get(metric, metric)})" for task, metric in metrics.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---", *["---:"] * len(metrics)], *lines])


def _family(language: str, pack: str) -> str:
    """A pack's name without its language."""
    return "-".join(part for part in pack.split("-") if part != language)


# Fractions are printed in percent, bits as they are.
_UNITS = {"bits_per_byte": "bits per byte", "f1": "F1"}


def _row_name(language: str, pack: str | None) -> str:
    return language if pack in (None, language) else f"{language} ({pack})"


def _number(value: float, metric: str) -> str:
    return f"{value:.3f}" if metric == "bits_per_byte" else f"{100 * value:.1f}"


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return ""
    spread = "" if mean.deviation is None else f" ± {_number(mean.deviation, mean.metric)}"
    return _number(mean.mean, mean.metric) + spread


def _average(cells: dict[tuple[str, str | None, str], Mean], rows: Sequence[_Row], task: str) -> str:
    present = [cells[(*row, task)] for row in rows if (*row, task) in cells]
    if not present:
        return ""
    return _number(statistics.fmean(mean.mean for mean in present), present[0].metric)

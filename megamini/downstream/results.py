"""Results: one entry a measurement, means and deviations over seeds, and tables for people."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megamini.errors import UserError
from megamini.files import write_atomically

FILE, TABLE = "results.json", "table.md"
# A language and the name of the pack that speaks it.
_Row = tuple[str, str | None]


@dataclass(frozen=True)
class Learned:
    """How a pack came to be: a point on the curve of its `series`, such as all packs of one adaptation run.

    method: standard or mini, where the pack says so. updates, tokens, flops, seconds: what it has cost to learn.
    """

    series: str
    method: str | None = None
    updates: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """One model on one task in one language.

    values: metric -> value, fractions but for bits per byte. metric: the headline one. n: number of examples. pack: the
    plugged one, by name, and how it was `learned`; None for the source language's own embeddings. seed: None where a
    model has none.
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
    learned: Learned | None = None

    @classmethod
    def from_entry(cls, entry: dict[str, Any]) -> "Result":
        """The inverse of `entry`. Raises KeyError or TypeError for what is no such entry."""
        known = {name: entry[name] for name in ("task", "language", "metric", "n", "model", "pack", "seed", "split")}
        others = {*known, "learned", "made_from"}
        values = {key: value for key, value in entry.items() if key not in others}
        return cls(**known, values=values, learned=Learned(**entry["learned"]) if entry["learned"] else None)

    def entry(self) -> dict[str, Any]:
        """The entry of `results.json`: {task, language, <metric>: value, n, model, pack, seed, ...}."""
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
            "learned": asdict(self.learned) if self.learned else None,
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
    learned: Learned | None = None


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
        first.learned,
    )


def read_results(directory: Path) -> list[Result]:
    """The measurements of a run directory. Raises UserError where there are none, or others than this tool's."""
    path = directory / FILE
    try:
        return [Result.from_entry(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not results of launch/evaluate.py: {error!r}; run it again") from None


def write_results(directory: Path, results: Sequence[Result], table: str) -> None:
    """`results.json` (every measurement), `summary.json` (means and deviations over seeds) and `table.md`."""
    write_entries(directory, [result.entry() for result in results])
    write_summary(directory, results, table)


def write_entries(directory: Path, entries: Sequence[dict[str, Any]]) -> None:
    """`results.json` alone."""
    write_atomically(directory / FILE, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def write_summary(directory: Path, results: Sequence[Result], table: str) -> None:
    """`summary.json`, and last `table.md`, which says that all is measured."""
    summary = [asdict(mean) for mean in means(results)]
    write_atomically(directory / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_atomically(directory / TABLE, table + "\n")


def table_of(results: Sequence[Result], source_language: str, cell: Callable[[Mean], str] | None = None) -> str:
    """Markdown: a row for each language and pack, a column for each task; the source language first, and last the
    averages over the target languages, one for each family of packs (mini-de and mini-es are of the family mini).
    Of a series of packs learned one after the other the first and the last are shown. `cell` writes a measurement,
    by default mean and deviation."""
    cell = cell or spread
    summary = means(results)
    metrics = {mean.task: mean.metric for mean in summary}
    cells = {(mean.language, mean.pack, mean.task): mean for mean in summary}
    rows = _rows(summary)
    lines = [
        [rows[row], *(cell(cells[(*row, task)]) if (*row, task) in cells else "" for task in metrics)]
        for row in sorted(rows, key=lambda row: row != (source_language, None))
    ]
    families: dict[str, list[_Row]] = {}
    for (language, pack), name in rows.items():
        if pack is not None:
            families.setdefault(_family(language, name), []).append((language, pack))
    for family, members in families.items():
        if len(members) > 1:
            name = f"average ({family})" if family else "average"
            lines.append([name, *(_average(cells, members, task) for task in metrics)])
    header = ["language", *(f"{task} ({_UNITS.get(metric, metric)})" for task, metric in metrics.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---", *["---:"] * len(metrics)], *lines])


def _rows(summary: Iterable[Mean]) -> dict[_Row, str]:
    """The rows of the table, in order of appearance, and their names."""
    rows: dict[_Row, str] = {}
    series: dict[tuple[str, str], dict[str, Learned]] = {}
    for mean in summary:
        if mean.learned is None:
            name = mean.language if mean.pack in (None, mean.language) else f"{mean.language} ({mean.pack})"
            rows[mean.language, mean.pack] = name
        else:
            series.setdefault((mean.language, mean.learned.series), {})[mean.pack] = mean.learned
    for (language, name), packs in series.items():
        ordered = sorted(packs, key=lambda pack: packs[pack].updates)
        first, last = ordered[0], ordered[-1]
        plain = language if name == language else f"{language} ({name})"
        rows[language, last] = plain
        if first != last:
            rows[language, first] = f"{language} ({name}, {packs[first].updates:,} updates)"
    return rows


def _family(language: str, name: str) -> str:
    """What the rows of different languages have in common: the name in brackets, without the language."""
    inside = name.removeprefix(language).strip(" ()")
    return "-".join(part for part in inside.split("-") if part != language)


# Fractions are printed in percent, bits as they are.
_UNITS = {"bits_per_byte": "bits per byte", "f1": "F1"}


def _number(value: float, metric: str) -> str:
    return f"{value:.3f}" if metric == "bits_per_byte" else f"{100 * value:.1f}"


def spread(mean: Mean) -> str:
    """The mean and, over several seeds, its deviation."""
    deviation = "" if mean.deviation is None else f" ± {_number(mean.deviation, mean.metric)}"
    return _number(mean.mean, mean.metric) + deviation


def _average(cells: dict[tuple[str, str | None, str], Mean], rows: Sequence[_Row], task: str) -> str:
    present = [cells[(*row, task)] for row in rows if (*row, task) in cells]
    if not present:
        return ""
    return _number(statistics.fmean(mean.mean for mean in present), present[0].metric)

"""Evaluations: the table of an evaluation run, with intervals, and curves of quality against compute."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import binomtest

from megamini.downstream.results import Mean, Result, means, read_results, spread, table_of
from megamini.errors import UserError
from megamini.markup import plain


@dataclass(frozen=True)
class EvaluationRecord:
    """A run directory of `launch/evaluate.py`."""

    directory: Path
    recipe: dict[str, Any]
    results: list[Result]

    @property
    def source_language(self) -> str:
        return self.recipe["model"]["source_language"]


def is_evaluation(directory: Path) -> bool:
    """Whether a directory is an evaluation's rather than a training run's."""
    return (directory / "results.json").is_file() and not (directory / "compute.json").is_file()


def read_evaluation(directory: Path) -> EvaluationRecord:
    """Raises UserError for a directory that is not whole."""
    path = directory / "recipe.yaml"
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe["model"]["source_language"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not the recipe of an evaluation: {error!r}; run launch/evaluate.py again") from None
    return EvaluationRecord(directory, recipe, read_results(directory))


def interval(mean: Mean) -> tuple[float, float]:
    """95% interval of an accuracy on `mean.n` examples (Wilson 1927): what other examples would do, not other seeds."""
    found = binomtest(round(mean.mean * mean.n), mean.n).proportion_ci(0.95, method="wilson")
    return found.low, found.high


def evaluation_section(record: EvaluationRecord) -> str:
    """Markdown: the table of languages and tasks, with an interval at every accuracy."""
    seeds = max((mean.seeds for mean in means(record.results)), default=1)
    sizes = sorted({f"{plain(mean.task)} {mean.n:,}" for mean in means(record.results)})
    return "\n".join(
        [
            f"## {plain(record.directory.name)}: zero-shot",
            "",
            f"In percent, except bits per byte: mean over {seeds} fine-tuned models (seeds) ± standard deviation. "
            "Accuracies also have the 95% interval that follows from the number of examples (Wilson). "
            f"Examples: {', '.join(sizes)}. `surface` and `in-language` need no language model: TF-IDF with logistic "
            "regression for classes, each word's most common tag for tags. They are trained in the source language "
            "(`surface`) or in the language itself (`in-language`).",
            "",
            table_of([_shown(result) for result in record.results], record.source_language, _cell),
        ]
    )


def _shown(result: Result) -> Result:
    """The result with its names as Markdown shows them."""
    learned = result.learned and replace(result.learned, series=plain(result.learned.series))
    pack = None if result.pack is None else plain(result.pack)
    names = {"task": plain(result.task), "language": plain(result.language), "metric": plain(result.metric)}
    values = {plain(name): value for name, value in result.values.items()}
    return replace(result, **names, values=values, pack=pack, learned=learned)


def _cell(mean: Mean) -> str:
    if mean.metric != "accuracy":
        return spread(mean)
    low, high = interval(mean)
    return f"{spread(mean)} [{100 * low:.1f}, {100 * high:.1f}]"

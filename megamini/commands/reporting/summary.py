"""The result in two sentences: how good a language is by each method, what it has cost, and what may be chance."""

import math
import statistics
from collections.abc import Mapping, Sequence

from megamini.commands.reporting.differences import difference_of
from megamini.commands.reporting.evaluation import EvaluationRecord
from megamini.commands.reporting.quality import Curve, average_speed_up, curves, reached
from megamini.markup import plain

_OVER = {"mini": "over the mini-model", "standard": "over the whole model"}
_SHARE = 0.95
_NORMAL_95 = 1.96


def result_in_words(records: Sequence[EvaluationRecord]) -> str:
    """Markdown, two sentences a task, for evaluations of packs learned over a mini-model and over the whole model;
    empty without any. Accuracy alone is spoken of."""
    of = [curve for curve in curves(records) if curve.metric == "accuracy" and curve.method in _OVER]
    tasks = dict.fromkeys(curve.task for curve in of)
    return "\n\n".join(filter(None, (_task([curve for curve in of if curve.task == task], records) for task in tasks)))


def _task(of: Sequence[Curve], records: Sequence[EvaluationRecord]) -> str:
    """Of the languages that both methods have; empty where a method has several series, or one none."""
    series = {method: [curve for curve in of if curve.method == method] for method in _OVER}
    if any(len({curve.series for curve in found}) != 1 for found in series.values()):
        return ""
    ends = {method: {curve.language: curve.points[-1] for curve in found} for method, found in series.items()}
    languages = sorted(ends["mini"].keys() & ends["standard"].keys())
    if not languages:
        return ""
    mini, standard = (
        statistics.fmean(ends[method][language].mean for language in languages) for method in ("mini", "standard")
    )
    examples = min(ends["mini"][language].n for language in languages)
    chance = _chance(mini, standard, examples)
    if len(languages) == 1 and (found := _paired(records, of[0].task, languages[0], series)):
        chance = _chance_paired(*found)
    named = ", ".join(map(plain, languages))
    where = f"in {named}" if len(languages) == 1 else f"in the mean of {named}"
    cost = {
        method: sum(ends[method][language].learned.flops for language in languages) for method in ("mini", "standard")
    }
    less = f"{cost['standard'] / cost['mini']:.1f} times less" if all(cost.values()) else "an unknown amount of"
    return (
        f"**Zero-shot accuracy on {plain(of[0].task)} {where} is {mini:.1%} {_OVER['mini']} and {standard:.1%} "
        f"{_OVER['standard']}; {chance}.** "
        f"Learning {_OVER['mini']} took {less} compute; {_gain(of, languages)}."
    )


def _paired(
    records: Sequence[EvaluationRecord], task: str, language: str, series: Mapping[str, Sequence[Curve]]
) -> tuple[float, float, float] | None:
    """Mini-model less whole model, where the evaluation kept what each example counts."""
    names = (series["mini"][0].series, series["standard"][0].series)
    return next((found for one in records if (found := difference_of(one, task, language, *names))), None)


def _chance_paired(difference: float, low: float, high: float) -> str:
    points, ends = f"{100 * abs(difference):.1f} points", f"95% interval: {100 * low:+.1f} to {100 * high:+.1f}"
    return f"the difference of {points} {'may be' if low <= 0 <= high else 'is more than'} chance ({ends})"


def _chance(one: float, other: float, examples: int) -> str:
    """Whether so many other examples could give another order: the normal approximation of two accuracies. Languages
    share their examples, as parallel pages do, so several count as one."""
    most = _NORMAL_95 * math.sqrt((one * (1 - one) + other * (1 - other)) / examples)
    points = f"{100 * abs(one - other):.1f} points"
    if abs(one - other) <= most:
        return f"the difference of {points} may be chance ({examples:,} examples: up to {100 * most:.1f})"
    return f"the difference of {points} is more than chance ({examples:,} examples: up to {100 * most:.1f})"


def _gain(of: Sequence[Curve], languages: Sequence[str]) -> str:
    rows = [
        row
        for row in reached(of)
        if row.curve.method == "mini" and row.share == _SHARE and row.curve.language in languages
    ]
    if not rows:
        return "standard adaptation itself gains nothing over the untrained pack"
    faster = average_speed_up(rows, "flops") if len(rows) == len(languages) else None
    what = f"{_SHARE:.0%} of standard adaptation's best gain"
    if faster is None:
        return f"it does not reach {what}"
    return f"it reaches {what} " + ("at once" if math.isinf(faster) else f"with {faster:.1f} times less")

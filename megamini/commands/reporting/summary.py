"""The result in two sentences: how good a language is by each method, what it has cost, and what may be chance."""

import math
import statistics
from collections.abc import Sequence

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
    return "\n\n".join(filter(None, (_task([curve for curve in of if curve.task == task]) for task in tasks)))


def _task(of: Sequence[Curve]) -> str:
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
    named = ", ".join(map(plain, languages))
    where = f"in {named}" if len(languages) == 1 else f"in the mean of {named}"
    return (
        f"**Zero-shot accuracy on {plain(of[0].task)} {where} is {mini:.1%} {_OVER['mini']} and {standard:.1%} "
        f"{_OVER['standard']}; {_chance(mini, standard, examples)}.** "
        f"Learning {_OVER['mini']} took {_ratio(ends, languages):.1f} times less compute; {_gain(of, languages)}."
    )


def _chance(one: float, other: float, examples: int) -> str:
    """Whether so many other examples could give another order: the normal approximation of two accuracies. Languages
    share their examples, as parallel pages do, so several count as one."""
    most = _NORMAL_95 * math.sqrt((one * (1 - one) + other * (1 - other)) / examples)
    points = f"{100 * abs(one - other):.1f} points"
    if abs(one - other) <= most:
        return f"the difference of {points} may be chance ({examples:,} examples: up to {100 * most:.1f})"
    return f"the difference of {points} is more than chance ({examples:,} examples: up to {100 * most:.1f})"


def _ratio(ends: dict, languages: Sequence[str]) -> float:
    """FLOPs of all packs of the languages, standard over mini."""
    mini, standard = (
        sum(ends[method][language].learned.flops for language in languages) for method in ("mini", "standard")
    )
    return standard / mini if mini else math.inf


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

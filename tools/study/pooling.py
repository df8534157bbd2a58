"""Cells of several seeds as one series, and several languages as their mean."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from megamini.commands.reporting.evaluation import EvaluationRecord
from megamini.commands.reporting.quality import Curve
from megamini.downstream.results import Result
from tools.study.grid import Study
from tools.study.ledger import Ledger

MEAN = "mean of languages"
# Behind the name of a task whose examples are told by the macro-average of F1 instead of by accuracy.
MACRO_F1 = "-macro-f1"


def pooled(study: Study, ledgers: Sequence[Ledger]) -> EvaluationRecord:
    """The measurements of all cells as one evaluation: packs of one series, language and length share a name, so that
    means are over adaptation seeds and fine-tuned models alike. A series that goes on from another begins with it, on
    the tasks that all its stages were measured on. Tasks with a macro-F1 are there once more, by that."""
    cells: dict[tuple[str, str, int], list[Result]] = {}
    for one in ledgers:
        if one.is_cell:
            cell = one.facts["series"], one.facts["language"], one.facts["seed"]
            cells.setdefault(cell, []).extend(one.results)
    results = []
    for series, language, seed in cells:
        chain = [cells.get((one, language, seed), []) for one in _chain(study, series)]
        complete = set.intersection(*({result.task for result in measured} for measured in chain))
        results += [
            _renamed(result, series, (seed, result.seed))
            for measured in chain
            for result in measured
            if result.learned is not None and result.task in complete
        ]
    lines: dict[tuple, Result] = {}
    for result in (result for measured in cells.values() for result in measured):
        if result.learned is None:
            lines.setdefault((result.task, result.language, result.pack, result.seed), result)
    results = [*lines.values(), *results]
    results += [
        replace(result, task=result.task + MACRO_F1, metric="macro_f1")
        for result in results
        if "macro_f1" in result.values
    ]
    recipe = {"model": {"source_language": study.text.source_language}}
    return EvaluationRecord(Path("study"), recipe, results)


def _chain(study: Study, series: str) -> list[str]:
    before = study.series[series].after
    return [*(_chain(study, before) if before else []), series]


def _renamed(result: Result, series: str, seed: tuple) -> Result:
    learned = replace(result.learned, series=series)
    return replace(result, pack=f"{series}/{result.language}-{learned.updates:08d}", learned=learned, seed=seed)


def with_mean(of: Sequence[Curve], reference: str) -> list[Curve]:
    """The curves, and for each series that has all languages of the reference the mean of their accuracies at equal
    updates, as one more language."""
    wanted = {
        task: {c.language for c in of if (c.task, c.series) == (task, reference)} for task in {c.task for c in of}
    }
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in of:
        if curve.language in wanted[curve.task]:
            groups.setdefault((curve.task, curve.series), []).append(curve)
    means = []
    for (task, _), members in groups.items():
        shared = set.intersection(*({point.learned.updates for point in curve.points} for curve in members))
        if len(members) == len(wanted[task]) > 1 and len(shared) > 1:
            means.append(_mean_curve(members, sorted(shared)))
    return [*of, *means]


def _mean_curve(members: Sequence[Curve], updates: Sequence[int]) -> Curve:
    points = []
    for update in updates:
        at = [next(point for point in curve.points if point.learned.updates == update) for curve in members]
        costs = {key: sum(getattr(p.learned, key) for p in at) / len(at) for key in ("flops", "seconds")}
        learned = replace(at[0].learned, **costs)
        mean = sum(point.mean for point in at) / len(at)
        points.append(replace(at[0], language=MEAN, mean=mean, deviation=None, learned=learned))
    return replace(members[0], language=MEAN, points=tuple(points))


def best_of(of: Sequence[Curve], task: str, language: str, series: str) -> Curve | None:
    """The curve of a series, where it was measured."""
    return next((c for c in of if (c.task, c.language, c.series) == (task, language, series)), None)

"""Cells of several seeds as one series, and how sure what is read off a series is."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from megamini.downstream.results import Result
from tools.reporting.evaluation import EvaluationRecord
from tools.reporting.quality import Curve, Reached, average_speed_up, curves, reached
from tools.study.grid import Study
from tools.study.ledger import Ledger

# Task, language, series, share of standard's best, cost -> value.
Key = tuple[str, str, str, float, str]


def pooled(study: Study, ledgers: Sequence[Ledger]) -> EvaluationRecord:
    """The measurements of all cells as one evaluation: packs of one series, language and length share a name, so that
    means are over adaptation seeds and fine-tuned models alike. A series that goes on from another begins with it, on
    the tasks that all its stages were measured on."""
    cells: dict[tuple[str, str, int], list[Result]] = {}
    for one in ledgers:
        if "series" in one.facts:
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
    recipe = {"model": {"source_language": study.text.source_language}}
    return EvaluationRecord(Path("study"), recipe, [*lines.values(), *results])


def _chain(study: Study, series: str) -> list[str]:
    before = study.series[series].after
    return [*(_chain(study, before) if before else []), series]


def _renamed(result: Result, series: str, seed: tuple) -> Result:
    learned = replace(result.learned, series=series)
    return replace(result, pack=f"{series}/{result.language}-{learned.updates:08d}", learned=learned, seed=seed)


MEAN = "mean of languages"


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


def speed_ups(rows: Sequence[Reached]) -> dict[Key, float | None]:
    """Speed-up of every row, and the geometric mean under the language `average speed-up`: over all languages with a
    target, None for a series that lacks one of them."""
    found: dict[Key, float | None] = {}
    groups: dict[tuple[str, str, float], list[Reached]] = {}
    for row in rows:
        if row.curve.language != MEAN:
            groups.setdefault((row.curve.task, row.curve.series, row.share), []).append(row)
        for cost, value in row.speed_up.items():
            found[row.curve.task, row.curve.language, row.curve.series, row.share, cost] = value
    wanted = {task: {row.curve.language for row in rows if row.curve.task == task} - {MEAN} for task, _, _ in groups}
    for (task, series, share), members in groups.items():
        complete = {row.curve.language for row in members} == wanted[task]
        for cost in members[0].speed_up:
            average = average_speed_up(members, cost) if complete else None
            found[task, "average speed-up", series, share, cost] = average
    return found


def bootstrap(
    record: EvaluationRecord, task: str, reference: str, rounds: int = 500, seed: int = 0
) -> dict[Key, tuple[float, float, float]]:
    """(low, high, share of rounds that reach) of each speed-up on a task: 95% percentile interval over resampled
    adaptation seeds and fine-tuned models. A round in which the target is not reached counts as a speed-up of 0."""
    generator = random.Random(seed)
    results = [result for result in record.results if result.task == task and result.learned is not None]
    values: dict[Key, list[float]] = {}
    for _ in range(rounds):
        chosen = replace_results(record, _resampled(results, generator))
        for key, value in speed_ups(reached(with_mean(curves([chosen]), reference), reference)).items():
            values.setdefault(key, []).append(value or 0.0)
    return {key: _interval(found, rounds) for key, found in values.items()}


def replace_results(record: EvaluationRecord, results: list[Result]) -> EvaluationRecord:
    return EvaluationRecord(record.directory, record.recipe, results)


def _resampled(results: Sequence[Result], generator: random.Random) -> list[Result]:
    """Fine-tuned models are drawn once for all series, which share them; adaptation seeds for each series."""
    models = sorted({result.seed[1] for result in results})
    drawn_models = generator.choices(models, k=len(models))
    groups: dict[tuple[str, str], dict[int, list[Result]]] = {}
    for result in results:
        by_seed = groups.setdefault((result.learned.series, result.language), {})
        by_seed.setdefault(result.seed[0], []).append(result)
    drawn = []
    for by_seed in groups.values():
        for chosen in generator.choices(sorted(by_seed), k=len(by_seed)):
            for model in drawn_models:
                drawn += [result for result in by_seed[chosen] if result.seed[1] == model]
    return drawn


def _interval(values: list[float], rounds: int) -> tuple[float, float, float]:
    ordered = sorted([*values, *[0.0] * (rounds - len(values))])
    low, high = ordered[int(0.025 * rounds)], ordered[min(rounds - 1, int(0.975 * rounds))]
    return low, high, sum(value > 0 for value in values) / rounds


def best_of(of: Sequence[Curve], task: str, language: str, series: str) -> Curve | None:
    """The curve of a series, where it was measured."""
    return next((c for c in of if (c.task, c.language, c.series) == (task, language, series)), None)

"""The sections of RESULTS.md: the headline, 12 layers against 4, and transfer against baselines."""

from collections.abc import Sequence

from megamini.commands.reporting.evaluation import EvaluationRecord
from megamini.commands.reporting.quality import curves
from megamini.commands.reporting.tables import table
from megamini.downstream.evaluation.reference_lines import SURFACE, WORD_BY_WORD
from megamini.downstream.results import means, spread
from tools.study.grid import Study
from tools.study.ledger import Ledger
from tools.study.pooling import best_of
from tools.study.speeds import AVERAGE, Speeds, references

# Of standard's best gain.
SHARE = 0.95


def claim(speeds: Sequence[Speeds], study: Study) -> str:
    """How many times less each series needs than standard adaptation from its own start, in every language."""
    tasks = list(dict.fromkeys(one.task for one in speeds))
    rows = []
    for name, series in study.series.items():
        reference = references(study).get(series.start)
        own = {one.task: one for one in speeds if one.reference == reference and one.languages(name)}
        if name == reference or not own:
            continue
        cells = [_average(own[task], name, "flops") if task in own else "" for task in tasks]
        rows.append([name, series.about, *cells, _average(next(iter(own.values())), name, "seconds")])
    return table(["series", "learned over; start", *tasks, f"seconds, {tasks[0]}"], rows)


def _average(own: Speeds, series: str, cost: str) -> str:
    """Over every language, or of the only one."""
    language = AVERAGE if AVERAGE in own.languages(series) else own.languages(series)[0]
    return own.cell(series, language, SHARE, cost)


def english(ledgers: Sequence[Ledger]) -> str:
    """What each primary model reaches in the source language: mean over fine-tuned models and deviation, in percent."""
    found = {one.name: {mean.task: spread(mean) for mean in means(one.results) if mean.pack is None} for one in ledgers}
    found = {name: of_task for name, of_task in found.items() if of_task}
    tasks = list(dict.fromkeys(task for of_task in found.values() for task in of_task))
    return table(
        ["primary model", *tasks], [[name, *(of.get(task, "") for task in tasks)] for name, of in found.items()]
    )


def transfer(record: EvaluationRecord, study: Study) -> str:
    """Each language on each task: what needs no language model, then the series from the reference's start."""
    lines = {(m.task, m.language, m.pack): m.mean for m in means(record.results) if m.learned is None}
    of, start = curves([record]), study.series[study.reference].start
    names = [name for name, series in study.series.items() if series.start == start]
    rows = []
    for standard in (curve for curve in of if curve.series == study.reference and curve.task in study.tasks):
        key = standard.task, standard.language
        ends = [best_of(of, *key, name) for name in names]
        shown = [lines.get((*key, line)) for line in (SURFACE, WORD_BY_WORD)] + [standard.points[0].mean]
        rows.append(
            [standard.task, standard.language, *("" if value is None else f"{100 * value:.1f}" for value in shown),
             *(spread(curve.points[-1]) if curve else "" for curve in ends)]
        )  # fmt: skip
    return table(["task", "language", "surface", "word by word", "untrained", *names], sorted(rows))

"""Which of two series of packs is better: differences of an evaluation that has kept its scores, with intervals."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from megamini.commands.reporting.evaluation import EvaluationRecord
from megamini.commands.reporting.paired import SystemScores, paired_difference
from megamini.commands.reporting.tables import plain_table
from megamini.downstream.evaluation.scores import read_scores
from megamini.downstream.metrics.measurement import Parts
from megamini.downstream.results import Result
from megamini.errors import UserError
from megamini.markup import plain

_Measured = list[tuple[Result, Parts]]


def differences_section(record: EvaluationRecord) -> str:
    """Markdown: for each task and language the last packs of every two series, and each of them with each reference
    line; empty where no scores were kept. Raises UserError where two have not the same examples."""
    rows = []
    for (task, language), systems in _systems(read_scores(record.directory)).items():
        for (name, own), (other, theirs) in combinations(systems.items(), 2):
            if own[0][0].learned or theirs[0][0].learned:
                try:
                    rows.append([task, language, name, other, *_cells(own, theirs)])
                except ValueError as error:
                    raise UserError(
                        f"{record.directory}: {task} in '{language}', {name} and {other}: {error}; remove the "
                        "directory and run launch/evaluate.py again"
                    ) from None
    if not rows:
        return ""
    return "\n".join(
        [
            f"## {plain(record.directory.name)}: differences",
            "",
            "The first minus the second, in percentage points (bits per byte: in bits). Each is the mean over its "
            "fine-tuned models. Of a series, the last pack counts. The 95% interval is a bootstrap over test examples, "
            "the same for both, and over fine-tuned models if there are several. If it contains 0, it is open which "
            "one is better. It does not say what other runs of pretraining or adaptation would give.",
            "",
            plain_table(["task", "language", "first", "second", "difference", "low", "high", "models"], rows),
        ]
    )


def difference_of(
    record: EvaluationRecord, task: str, language: str, first: str, second: str
) -> tuple[float, float, float] | None:
    """(difference, low, high) of the last packs of two series, by what each test example counts; None where no scores
    of both were kept. Raises ValueError where they are not of the same examples."""
    systems = _systems(read_scores(record.directory)).get((task, language), {})
    if first not in systems or second not in systems:
        return None
    own, theirs = systems[first], systems[second]
    return paired_difference(_scores(own), _scores(theirs), same_seeds=_same_models(own, theirs))


def _systems(measured: Sequence[tuple[Result, Parts]]) -> dict[tuple[str, str], dict[str, _Measured]]:
    """Task and language -> series or reference line -> what was measured of its last pack, by seed."""
    found: dict[tuple[str, str], dict[str, _Measured]] = {}
    for one in measured:
        result = one[0]
        if result.pack is not None:
            name = result.learned.series if result.learned else result.pack
            found.setdefault((result.task, result.language), {}).setdefault(name, []).append(one)
    return {key: {name: _last(own) for name, own in systems.items()} for key, systems in found.items()}


def _last(measured: _Measured) -> _Measured:
    updates = [result.learned.updates if result.learned else 0 for result, _ in measured]
    last = [one for one, own in zip(measured, updates, strict=True) if own == max(updates)]
    return sorted(last, key=lambda one: (one[0].seed or 0, one[0].model))


def _cells(own: _Measured, theirs: _Measured) -> list[str]:
    """Difference, both ends of the interval, and how many fine-tuned models either side has."""
    same = _same_models(own, theirs)
    numbers = paired_difference(_scores(own), _scores(theirs), same_seeds=same)
    bits = own[0][0].metric == "bits_per_byte"
    cells = [f"{number:+.3f}" if bits else f"{100 * number:+.1f}" for number in numbers]
    return [*cells, f"{len(own)}" if same else f"{len(own)} and {len(theirs)}"]


def _same_models(own: _Measured, theirs: _Measured) -> bool:
    return [result.model for result, _ in own] == [result.model for result, _ in theirs]


def _scores(measured: _Measured) -> SystemScores:
    """Raises ValueError where the models were not measured on the same examples."""
    if len(counts := {len(parts) for _, parts in measured}) > 1:
        raise ValueError(f"not of the same examples: {' and '.join(map(str, sorted(counts)))}")
    sides = np.array([parts for _, parts in measured], dtype=float)
    return SystemScores(sides[:, :, 0], sides[:, :, 1])

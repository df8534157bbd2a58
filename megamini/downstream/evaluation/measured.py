"""What is to be measured and what has been: each result is on disk as soon as it is known, and is measured once.

A result is known again by its key (task, language, pack, seed, split) and by fingerprints of what it was made from:
the model's weights, the pack, the examples. `results.json` keeps those of earlier evaluations under the same name.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from megamini.downstream.evaluation.entries import MADE_FROM, content_of, key_of, resolved
from megamini.downstream.evaluation.scores import Scores
from megamini.downstream.metrics.measurement import Parts
from megamini.downstream.results import FILE, Learned, Result, write_entries
from megamini.errors import UserError


@dataclass(frozen=True)
class Planned:
    """A measurement to be made. made_from: fingerprints of `model`, `pack` and `data`, empty where there is none."""

    task: str
    language: str
    metric: str
    model: str
    pack: str | None
    seed: int | None
    split: str | None
    learned: Learned | None
    made_from: dict[str, str]

    def result(self, values: dict[str, float], n: int) -> Result:
        """What was measured, on n examples."""
        return Result(
            self.task, self.language, self.metric, values, n, self.model, self.pack, self.seed, self.split, self.learned
        )


# What was planned, what came out, and what each example counts in its headline metric.
Outcome = tuple[Planned, Result, Parts]


class Part(Protocol):
    """Measurements that are made together, such as all of one model."""

    planned: list[Planned]

    def measure(self, wanted: Sequence[Planned], device: torch.device) -> Iterator[Outcome]:
        """Those of `planned` that are wanted, one by one."""


class Measured:
    """The results of a run directory."""

    def __init__(self, directory: Path, planned: Sequence[Planned], keep_scores: bool = False) -> None:
        """keep_scores: what each example counts is kept too, and a measurement without it is missing.

        Raises UserError where the directory holds results of other weights or data that would stand beside these.
        """
        self._directory, self._planned = directory, planned
        entries = _read(directory)
        known = {content_of(entry): entry for entry in entries if MADE_FROM in entry}
        self._found: dict[tuple, dict[str, Any]] = {}
        for one in planned:
            if (entry := known.get(content_of(_entry(one)))) is not None:
                self._found[key_of(_entry(one))] = {**entry, "model": one.model}
        keys, contents = ({kind(_entry(one)) for one in planned} for kind in (key_of, content_of))
        self._others = [one for one in entries if key_of(one) not in keys and content_of(one) not in contents]
        self._refuse_others_of_other_make()
        self._scores = Scores(directory, self._entries()) if keep_scores else None

    def missing(self, planned: Sequence[Planned]) -> list[Planned]:
        """Of `planned`, what has not been measured yet."""
        return [one for one in planned if not self._has(_entry(one))]

    def add(self, planned: Planned, result: Result, parts: Parts) -> None:
        """Write a result down, at once."""
        entry = {**result.entry(), MADE_FROM: planned.made_from}
        self._found[key_of(entry)] = entry
        write_entries(self._directory, self._entries())
        if self._scores is not None:  # last, so that they are of the very result that the other file holds
            self._scores.add(entry, parts)

    def write(self) -> None:
        """Both files in the order of the plan; then what earlier evaluations have left."""
        write_entries(self._directory, self._entries())
        if self._scores is not None:
            self._scores.write(self._entries())

    def results(self) -> list[Result]:
        """All that the file holds."""
        return [Result.from_entry(entry) for entry in self._entries()]

    def _has(self, entry: dict[str, Any]) -> bool:
        return key_of(entry) in self._found and (self._scores is None or entry in self._scores)

    def _entries(self) -> list[dict[str, Any]]:
        keys = [key_of(_entry(one)) for one in self._planned]
        return [*(self._found[key] for key in keys if key in self._found), *self._others]

    def _refuse_others_of_other_make(self) -> None:
        """What stays of a task that is planned must be of the same models, split and examples: the table makes one
        number of all that it finds."""
        for entry in self._others:
            of_task = [one for one in self._planned if one.task == entry["task"]]
            what = _difference(entry, of_task) if of_task else None
            if what is not None:
                by = f" with pack '{entry['pack']}'" if entry["pack"] else ""
                raise UserError(
                    f"{self._directory / FILE}: holds {entry['task']} in '{entry['language']}'{by}, measured on {what} "
                    "than now; choose another name, or remove the file"
                )


def _difference(entry: dict[str, Any], planned: Sequence[Planned]) -> str | None:
    """What makes an earlier entry another thing than all that is planned of its task."""
    if (entry["split"], entry["metric"]) not in {(one.split, one.metric) for one in planned}:
        return f"another split ({entry['split']}) or by another metric ({entry['metric']})"
    same_folder = resolved(entry["model"]) in {resolved(one.model) for one in planned}
    before = entry.get(MADE_FROM)
    if before is None:  # of an earlier version
        return None if same_folder else f"another model ({entry['model']})"
    if before["model"] not in {one.made_from["model"] for one in planned}:
        return f"other weights of {entry['model']}" if same_folder else f"another model ({entry['model']})"
    data = {one.made_from["data"] for one in planned if one.language == entry["language"]}
    return "other examples" if data and before["data"] not in data else None


def _read(directory: Path) -> list[dict[str, Any]]:
    path = directory / FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for entry in entries:
            Result.from_entry(entry)
            content_of(entry)
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not results of launch/evaluate.py: {error!r}; choose another name") from None
    return entries


def _entry(planned: Planned) -> dict[str, Any]:
    return {**planned.result({}, 0).entry(), MADE_FROM: planned.made_from}

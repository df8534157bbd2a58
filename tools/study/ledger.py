"""Ledgers of the study: what remains of a run when its weights are gone. A file a series, a line a run, JSON lines."""

import importlib.metadata
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megamini.commands.reporting.runs import RunRecord, read_run
from megamini.downstream.results import Result, read_results
from megamini.errors import UserError
from megamini.files import write_atomically
from tools.benchmarks.page import ROOT, hardware

_PACKAGES = ("torch", "transformers", "deepspeed", "tokenizers")


@dataclass(frozen=True)
class Ledger:
    """One run of the study. facts: its primary model, or a cell's series, language and seed. run: its recipe, cost and
    validations; results: what was measured with its weights."""

    name: str
    facts: dict[str, Any]
    run: RunRecord
    results: list[Result]
    made_with: dict[str, Any]

    @property
    def is_cell(self) -> bool:
        return "series" in self.facts


class Ledgers:
    """The ledgers of a folder; `file` is that of a series, or `primaries`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> list[Ledger]:
        """All, by file and in the order of their making. Raises UserError for a file that is torn."""
        return [one for path in sorted(self._folder.glob("*.jsonl")) for one in _read(path).values()]

    def has(self, file: str, name: str) -> bool:
        return name in _read(self._path(file))

    def tasks_of(self, file: str, name: str) -> set[str]:
        """Tasks, and measures without labels, that a run's ledger holds."""
        kept = _read(self._path(file)).get(name)
        return {result.task for result in kept.results} if kept else set()

    def keep(self, file: str, name: str, facts: dict[str, Any], run: Path, evaluations: Sequence[Path]) -> None:
        """Keep a finished run directory, and evaluations of its weights beside those that are kept already.

        Raises UserError where what is kept of that name is of other weights than those that `run` ended with."""
        path, record = self._path(file), read_run(run)
        kept = {one.name: one for one in _read(path).values()}
        metrics = _thinned(record)
        if (before := kept.get(name)) and before.run.validations[-1:] != _validations(metrics)[-1:]:
            raise UserError(
                f"{path}: {name}: was kept of another run than {run}, which was made anew; what is measured of the two "
                "does not belong together: give a folder of your own with --ledgers"
            )
        new = [result for folder in evaluations for result in read_results(folder)]
        measured = {(result.task, result.language, result.pack, result.seed) for result in new}
        old = before.results if before else []
        results = [one for one in old if (one.task, one.language, one.pack, one.seed) not in measured] + new
        run_record = before.run if before else RunRecord(Path(name), record.recipe, record.ledger, metrics)
        made_with = before.made_with if before else _made_with()
        kept[name] = Ledger(name, facts, run_record, results, made_with)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(f"{_line(one)}\n" for one in kept.values()))

    def _path(self, file: str) -> Path:
        return self._folder / f"{file}.jsonl"


def _read(path: Path) -> dict[str, Ledger]:
    """Ledgers of a file by name; none where there is no file."""
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
            run = RunRecord(Path(values["name"]), values["recipe"], values["ledger"], values["metrics"])
            results = [Result.from_entry(entry) for entry in values["results"]]
            found[values["name"]] = Ledger(values["name"], values["facts"], run, results, values["made_with"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: line {number}: not a ledger of the study: {error!r}; check it out again, or remove the line "
                "and rerun its cell"
            ) from None
    return found


def _line(one: Ledger) -> str:
    values = {
        "name": one.name,
        "facts": one.facts,
        "made_with": one.made_with,
        "recipe": one.run.recipe,
        "ledger": one.run.ledger,
        "metrics": one.run.metrics,
        "results": [result.entry() for result in one.results],
    }
    return json.dumps(values, ensure_ascii=False)


def _thinned(record: RunRecord, most: int = 60) -> list[dict[str, float]]:
    """All validations, and as many of the other lines with a cost as make about `most`, without what is not told."""
    lines = [
        {key: _short(value) for key, value in line.items() if _is_kept(key)}
        for line in record.metrics
        if "compute/flops" in line or line in record.validations
    ]
    stride = max(1, len(lines) // most)
    validations = _validations(lines)
    return [line for row, line in enumerate(lines) if row % stride == 0 or line in validations]


def _validations(lines: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [line for line in lines if any(key.startswith("validation/") for key in line)]


def _is_kept(key: str) -> bool:
    return key == "update" or key.startswith(("validation/", "compute/", "loss"))


def _short(value: float) -> float:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _made_with() -> dict[str, Any]:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": done.stdout.strip() or "unknown",
        "hardware": hardware(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }

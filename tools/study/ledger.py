"""Ledgers of the study: what remains of a run when its weights are gone, a few kilobytes of JSON each."""

import importlib.metadata
import json
import subprocess
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
    """One run of the study. kind: primary or cell, or tags for parts of speech with the weights of either. facts: the
    primary model, or a cell's series, language and seed. run: its recipe, cost and validations; results: what was
    measured with its weights."""

    kind: str
    name: str
    facts: dict[str, Any]
    run: RunRecord
    results: list[Result]
    made_with: dict[str, Any]


def check_same_run(path: Path, run: Path) -> None:
    """Raises UserError where a ledger is of other weights than those that `run` ended with."""
    kept, own = read_ledger(path).run.validations, read_run(run).validations
    if kept[-1:] != [{key: _short(value) for key, value in line.items() if _is_kept(key)} for line in own[-1:]]:
        raise UserError(
            f"{path}: was kept of another run than {run}, which was made anew; what is measured of the two does not "
            "belong together: give a folder of your own with --ledgers"
        )


def write_ledger(path: Path, kind: str, facts: dict[str, Any], run: Path, evaluation: Path | None) -> None:
    """Keep a finished run directory, and the evaluation of its weights, as one file."""
    record = read_run(run)
    lines = [
        {key: _short(value) for key, value in line.items() if _is_kept(key)}
        for line in record.metrics
        if "compute/flops" in line or line in record.validations
    ]
    results = read_results(evaluation) if evaluation else []
    values = {
        "kind": kind,
        "facts": facts,
        "made_with": {
            "commit": _commit(),
            "hardware": hardware(),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "recipe": record.recipe,
        "ledger": record.ledger,
        "metrics": _thinned(lines),
        "results": [result.entry() for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _json(values))


def read_ledgers(folder: Path) -> list[Ledger]:
    """All ledgers of a folder, by name. Raises UserError for one that is torn."""
    return [read_ledger(path) for path in sorted(folder.glob("*.json"))]


def read_ledger(path: Path) -> Ledger:
    """Raises UserError for a file that is no ledger of the study."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        run = RunRecord(Path(path.stem), values["recipe"], values["ledger"], values["metrics"])
        results = [Result.from_entry(entry) for entry in values["results"]]
        return Ledger(values["kind"], path.stem, values["facts"], run, results, values["made_with"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a ledger of the study: {error!r}; check it out again, or rerun its cell"
        ) from None


def _is_kept(key: str) -> bool:
    return key == "update" or key.startswith(("validation/", "compute/", "loss"))


def _short(value: float) -> float:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _thinned(lines: list[dict[str, float]], most: int = 60) -> list[dict[str, float]]:
    """All validations, and as many of the other lines as make about `most`."""
    stride = max(1, len(lines) // most)
    return [
        line
        for row, line in enumerate(lines)
        if row % stride == 0 or any(key.startswith("validation/") for key in line)
    ]


def _json(values: dict[str, Any]) -> str:
    """One line for each metrics line and each result, so that a change reads well."""
    parts = []
    for key, value in values.items():
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in value)
            parts.append(f"{json.dumps(key)}: [\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"

"""What a run directory says of a run: its recipe, what it has cost, what was measured on the way."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from megamini.errors import UserError
from megamini.training.telemetry import read_metrics

_LEDGER = {"updates", "tokens", "flops", "seconds", "ranks", "device"}


class NotYetValidated(UserError):
    """A run that is whole, and too young to be shown."""


@dataclass(frozen=True)
class RunRecord:
    """`metrics`: the lines of metrics.jsonl; `ledger`: compute.json; `recipe`: the resolved one, as values."""

    directory: Path
    recipe: dict[str, Any]
    ledger: dict[str, Any]
    metrics: list[dict[str, float]]

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def is_adaptation(self) -> bool:
        return "adaptation" in self.recipe

    @property
    def validations(self) -> list[dict[str, float]]:
        """Lines of validations, oldest first; at least one."""
        return [line for line in self.metrics if any(name.startswith("validation/loss") for name in line)]

    def cost_at(self, name: str) -> dict[int, float]:
        """Update -> `compute/tokens` or `compute/flops`."""
        return {line["update"]: line[name] for line in self.metrics if name in line}


def read_run(directory: Path) -> RunRecord:
    """Read a run directory. Raises `UserError` for one that is not whole, `NotYetValidated` for a young one."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such folder; give the directory of a run")
    path = directory / "compute.json"
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
        metrics = list(read_metrics(directory / "metrics.jsonl"))
        recipe = yaml.safe_load((directory / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{directory}: not a run directory with compute.json, metrics.jsonl and recipe.yaml: {error}"
        ) from None
    missing = sorted(_LEDGER - set(ledger)) if isinstance(ledger, dict) else sorted(_LEDGER)
    if missing:
        raise UserError(f"{path}: has no '{missing[0]}'; it is written again when the run continues or ends")
    run = RunRecord(directory, recipe if isinstance(recipe, dict) else {}, ledger, metrics)
    if not run.validations:
        raise NotYetValidated(f"{directory}: no validation was recorded; let the run get further")
    return run

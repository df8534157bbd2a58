"""Provenance of a fine-tuning's run directory: it belongs to one recipe, primary model and data."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from megamini.downstream.finetuning.jobs import Job
from megamini.downstream.recipe import FinetuneRecipe
from megamini.errors import UserError
from megamini.files import write_atomically
from megamini.models.pretrained import weights_fingerprint
from megamini.recipes.recipe import dump_recipe

_MADE_FROM = "made_from.json"


def made_from(recipe: FinetuneRecipe, jobs: Sequence[Job]) -> dict[str, str]:
    """What the primary's weights and each task's data are, by hash."""
    return {"primary": weights_fingerprint(recipe.model.primary)} | {
        job.key: hashlib.sha256(repr((job.training, job.validation)).encode()).hexdigest() for job in jobs
    }


def adopt_run_directory(recipe: FinetuneRecipe, now: Mapping[str, str]) -> None:
    """Rank 0 only: take the run directory; one that holds models of another recipe, primary or data is refused. Seeds
    may be added. now: what they are made from."""
    directory = recipe.run_directory
    written = directory / "recipe.yaml"
    if written.exists() and _what_trains(_read(written)) != _what_trains(recipe):
        raise UserError(f"{directory}: holds models of another recipe ({written.name} differs); choose another name")
    known = directory / _MADE_FROM
    before = json.loads(known.read_text(encoding="utf-8")) if known.exists() else now
    if changed := [name for name in now if now[name] != before.get(name)]:
        what = "the primary's weights" if changed[0] == "primary" else f"the data of {changed[0]}"
        raise UserError(f"{directory}: {what} have changed since its models were made; choose another name")
    write_atomically(known, json.dumps(now, indent=1) + "\n")
    write_atomically(written, dump_recipe(recipe))


def _read(written: Path) -> FinetuneRecipe | None:
    """The recipe of a run directory, of this version or an earlier one; None where it is no such recipe."""
    try:
        return FinetuneRecipe.model_validate(yaml.safe_load(written.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError, UserError):
        return None


def _what_trains(recipe: FinetuneRecipe | None) -> dict[str, Any] | None:
    """A recipe without what may differ between two calls that go on with one run: seeds, and where things lie, which
    count by their content."""
    if recipe is None:
        return None
    values = recipe.model_dump(mode="json", exclude={"name", "telemetry", "checkpoint"})
    for section, key in (("training", "seeds"), ("training", "runs"), ("model", "primary")):
        del values[section][key]
    for task in values["tasks"].values():
        del task["path"], task["dataset"]
        task["further"] = len(task["further"])
    return values

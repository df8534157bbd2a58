"""The order of blocks is part of a run's identity, and a run that began in an earlier version keeps its own."""

from pathlib import Path

import pytest

from megamini.errors import UserError
from megamini.recipes.recipe import Recipe
from megamini.training.checkpoints.begun_order import resolve_block_order
from megamini.training.checkpoints.identity import check_identity, defaults_of, identity_of
from megamini.training.checkpoints.manifest import write_manifest
from tests.integration.cases import Case


def recipe(folder: Path, **training: str) -> Recipe:
    values = Case(stage=None).recipe(folder / "data", folder)
    values["training"] |= training
    return Recipe.model_validate(values)


def checkpoint_of(recipe: Recipe, update: int, earlier: bool = False) -> Path:
    path = recipe.run_directory / "checkpoints" / f"step-{update:08d}"
    path.mkdir(parents=True)
    identity = identity_of(recipe, "data")
    if earlier:
        del identity["training"]["block_order"]
    write_manifest(path, {"identity": identity, "files": []})
    return path


def test_a_new_run_reads_runs(tmp_path: Path) -> None:
    assert resolve_block_order(recipe(tmp_path)).training.block_order == "runs"
    assert resolve_block_order(recipe(tmp_path, block_order="blocks")).training.block_order == "blocks"


def test_a_run_of_an_earlier_version_keeps_single_blocks(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    checkpoint = checkpoint_of(asked, 7, earlier=True)
    resolved = resolve_block_order(asked)
    assert resolved.training.block_order == "blocks"
    saved = {**identity_of(asked, "data"), "training": {"global_batch": 8, "precision": "fp32", "seed": 3}}
    check_identity(identity_of(resolved, "data"), saved, checkpoint, defaults_of(resolved))
    check_identity(identity_of(asked, "data"), saved, checkpoint, defaults_of(asked))  # as an export reads it
    changed = recipe(tmp_path, block_order="runs")
    with pytest.raises(UserError, match=r"training\.block_order is runs, but .* was trained with blocks"):
        check_identity(identity_of(changed, "data"), saved, checkpoint, defaults_of(changed))


def test_a_begun_run_keeps_its_order(tmp_path: Path) -> None:
    checkpoint_of(recipe(tmp_path, block_order="runs"), 7)
    assert resolve_block_order(recipe(tmp_path)).training.block_order == "runs"
    torn = recipe(tmp_path).run_directory / "checkpoints/step-00000009"
    torn.mkdir()
    assert resolve_block_order(recipe(tmp_path)).training.block_order == "runs"

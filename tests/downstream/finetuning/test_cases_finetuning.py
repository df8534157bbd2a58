"""Fine-tuning side by side, over several seeds, and as a plan."""

import os
import runpy
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from megamini.downstream.finetuning import finetune as module
from megamini.downstream.finetuning.finetune import finetune, plan
from megamini.downstream.kinds.by_name import KINDS
from megamini.downstream.recipe import FinetuneRecipe
from megamini.errors import UserError
from megamini.recipes.recipe import dump_recipe
from megamini.training.safety.run_lock import run_lock
from tests.downstream.workplace import finetune_recipe, write_texts
from tests.integration.ranks import Ranks


@pytest.fixture
def recipe(primary: Path, tmp_path: Path) -> FinetuneRecipe:
    write_texts(tmp_path / "texts", "en")
    values = finetune_recipe(primary, tmp_path)
    values["training"]["seeds"] = [0, 1]
    return FinetuneRecipe.model_validate(values)


def test_cases_two_finetunings_of_a_name_at_once(recipe: FinetuneRecipe, monkeypatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0)
    with run_lock(recipe.run_directory, "training.runs"):
        with pytest.raises(UserError, match=rf"tuned: another run writes there \(process {os.getpid()} on"):
            finetune(recipe)
    assert not list(recipe.run_directory.iterdir())


def test_cases_texts_are_tokenized_once_for_all_seeds(recipe: FinetuneRecipe) -> None:
    kind, calls = KINDS["classification"], []

    def counted(*arguments):
        calls.append(arguments)
        return type(kind).training_inputs(kind, *arguments)

    with mock.patch.object(kind, "training_inputs", counted):
        finetune(recipe)
        assert len(calls) == 1
        finetune(recipe)
        assert len(calls) == 1, "all seeds are complete"


def test_cases_too_large_a_micro_batch_is_one_line(recipe: FinetuneRecipe, monkeypatch) -> None:
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.25 GiB.")

    monkeypatch.setattr(module, "train", fail)
    line = r"^training\.micro_batch: \d+ inputs of up to \d+ tokens: out of GPU memory: 1\.25 GiB .*; lower training\."
    with pytest.raises(UserError, match=line):
        finetune(recipe)


def dry_run(path: str) -> None:
    sys.argv = ["launch/finetune.py", path, "--dry-run"]
    runpy.run_path("launch/finetune.py", run_name="__main__")


@pytest.mark.launched
def test_cases_a_dry_run_prints_the_plan_alone(recipe: FinetuneRecipe, tmp_path: Path) -> None:
    """Out and errors: nothing of what the library says when it loads a model."""
    (path := tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    with Ranks(dry_run, [str(path)], None, tmp_path / "logs") as running:
        assert running.wait(120) == [0], running.printed()
        assert running.printed() == f"{dump_recipe(recipe)}\nplan\n{plan(recipe)}\n"
    assert not recipe.run_directory.exists()


def test_cases_models_and_texts_are_known_by_content(
    recipe: FinetuneRecipe, tmp_path: Path, monkeypatch, capsys
) -> None:
    """From another folder, with relative paths and another log; and of an earlier version, with an option fewer."""
    finetune(recipe)
    written = recipe.run_directory / "recipe.yaml"
    written.write_text(written.read_text().replace("  attention: sdpa\n", ""))
    monkeypatch.chdir(tmp_path)
    values = recipe.model_dump(mode="json")
    copy = shutil.copytree(values["model"]["primary"], tmp_path / "copy")
    values["model"]["primary"], values["training"]["runs"] = str(copy.relative_to(tmp_path)), "runs"
    values["tasks"]["topic"]["path"], values["telemetry"]["every"] = "texts", 1
    finetune(FinetuneRecipe.model_validate(values))
    assert capsys.readouterr().out.count("complete already, kept") == 2
    values["schedule"]["updates"] = 5
    with pytest.raises(UserError, match="holds models of another recipe"):
        finetune(FinetuneRecipe.model_validate(values))

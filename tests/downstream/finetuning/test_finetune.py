"""Fine-tuning and evaluation from recipe to results, in this process, on a tiny model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from megamini.data.tokenizer import load_tokenizer
from megamini.downstream.evaluation.evaluate import evaluate
from megamini.downstream.finetuning import finetune as module
from megamini.downstream.finetuning.finetune import finetune
from megamini.downstream.finetuning.trainer import newest_checkpoint
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.downstream.results import Learned, Result, means, table_of
from megamini.errors import UserError
from megamini.models.lineage import lineage_of
from tests.downstream.workplace import evaluate_recipe, finetune_recipe, make_pack, write_pages, write_texts
from tests.integration.launching import ROOT


def run(recipe: dict, **changes: dict) -> Path:
    values = {**recipe, **{name: {**recipe.get(name, {}), **part} for name, part in changes.items()}}
    checked = FinetuneRecipe.model_validate(values)
    finetune(checked)
    return checked.run_directory


@pytest.fixture
def recipe(primary: Path, tmp_path: Path) -> dict:
    write_texts(tmp_path / "texts", "en")
    return finetune_recipe(primary, tmp_path)


def test_it_learns_with_embeddings_frozen_and_the_lineage_holds(recipe, primary):
    directory = run(recipe, schedule={"updates": 60}, optimizer={"learning_rate": 0.01})
    folder = directory / "topic" / "seed-0"
    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert {kind: names for kind, names in report.items() if names} == {}
    source = AutoModelForMaskedLM.from_pretrained(primary)
    assert torch.equal(model.get_input_embeddings().weight, source.get_input_embeddings().weight)
    for name in ("embeddings.position_embeddings.weight", "encoder.layer.0.attention.self.query.weight"):
        assert not torch.equal(model.base_model.get_parameter(name), source.base_model.get_parameter(name)), name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.megamini["lineage"] == lineage_of(source, load_tokenizer(primary))
    assert (model.config.megamini["task"], model.config.megamini["seed"]) == ("topic", 0)
    assert model.config.id2label == {0: "bread", 1: "water"}
    predicted = model(**tokenizer("Bread is baked from flour", return_tensors="pt")).logits.argmax().item()
    assert model.config.id2label[predicted] == "bread"
    assert sorted(path.name for path in directory.rglob("*") if path.is_file()) == sorted([
        "recipe.yaml", "made_from.json", "results.json", "summary.json", "table.md",
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "result.json",
    ])  # fmt: skip
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "weights are for whom the rest is for"
    (entry,) = json.loads((directory / "results.json").read_text())
    assert entry["accuracy"] == 1
    assert (entry["task"], entry["language"], entry["n"], entry["seed"], entry["pack"]) == ("topic", "en", 12, 0, None)


def test_several_seeds_differ_and_what_is_complete_is_kept(recipe, capsys):
    directory = run(recipe, training={"seeds": [0, 1]})
    weights = [(directory / "topic" / f"seed-{seed}" / "model.safetensors").read_bytes() for seed in (0, 1)]
    assert weights[0] != weights[1]
    (summary,) = json.loads((directory / "summary.json").read_text())
    assert summary["seeds"] == 2
    assert summary["deviation"] is not None
    capsys.readouterr()
    run(recipe, training={"seeds": [1, 0, 2]})
    assert capsys.readouterr().out.count("complete already, kept") == 2
    assert (directory / "topic/seed-0/model.safetensors").read_bytes() == weights[0]
    assert len(json.loads((directory / "results.json").read_text())) == 3


def test_the_same_seed_gives_the_same_model(recipe, tmp_path):
    one = run(recipe)
    other = run({**recipe, "name": "again"})
    assert (one / "topic/seed-0/model.safetensors").read_bytes() == (
        other / "topic/seed-0/model.safetensors"
    ).read_bytes()


def test_an_interrupted_seed_goes_on_and_ends_as_if_it_had_not_been(recipe, monkeypatch, tmp_path):
    changes = {"schedule": {"updates": 14}, "training": {"precision": "fp32"}}  # 6 updates an epoch
    whole = run({**recipe, "name": "whole"}, **changes)

    class Killed(Exception):
        pass

    def die(self, args, state, control, **kwargs):
        if state.global_step == 9:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module.train.__globals__["Progress"], "on_step_end", die)
        run(recipe, **changes)
    torn = tmp_path / "runs/tuned/topic/.seed-0.writing/checkpoints/checkpoint-12"
    torn.mkdir()
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(
            module.train.__globals__["Progress"],
            "on_step_end",
            lambda self, args, state, control, **kwargs: steps.append(state.global_step),
        )
        directory = run(recipe, **changes)
    assert steps == list(range(7, 15)), "it goes on from the end of the first epoch"
    assert (directory / "topic/seed-0/model.safetensors").read_bytes() == (
        whole / "topic/seed-0/model.safetensors"
    ).read_bytes()


def test_only_complete_checkpoints_count(tmp_path):
    for step, complete in ((2, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert newest_checkpoint(tmp_path, clean=True) == str(tmp_path / "checkpoint-10")
    assert not (tmp_path / "checkpoint-12").exists()
    assert newest_checkpoint(tmp_path / "none", clean=True) is None


def test_another_recipe_under_the_same_name_is_refused(recipe):
    run(recipe)
    with pytest.raises(UserError, match="holds models of another recipe"):
        run(recipe, optimizer={"learning_rate": 0.1})


def test_another_primary_or_other_data_under_the_same_name_are_refused(recipe, primary, tmp_path):
    run(recipe)
    model = AutoModelForMaskedLM.from_pretrained(primary)
    with torch.no_grad():
        next(model.parameters())[0] += 1
    copy = tmp_path / "copy"
    shutil.copytree(primary, copy)
    moved = {**recipe, "name": "moved", "model": {"primary": str(copy)}}
    run(moved)
    model.save_pretrained(copy)
    with pytest.raises(UserError, match="the primary's weights have changed"):
        run(moved)
    with (tmp_path / "texts" / "train-en.tsv").open("a") as file:
        file.write("One more\tbread\n")
    with pytest.raises(UserError, match="the data of topic have changed"):
        run(recipe)


def test_a_loss_that_is_no_number_is_refused_however_short_the_run(recipe):
    with pytest.raises(UserError, match="no number any more"):
        run(recipe, optimizer={"learning_rate": 1e30, "clip_norm": 0.0})
    assert not list(Path(recipe["training"]["runs"]).glob("tuned/topic/seed-0"))


def test_embeddings_that_moved_are_refused(recipe, monkeypatch):
    monkeypatch.setattr(module, "freeze_token_embeddings", lambda model: None)
    with pytest.raises(UserError, match="token embeddings changed"):
        run(recipe)
    assert not list(Path(recipe["training"]["runs"]).glob("tuned/topic/seed-0"))


def test_one_command_evaluates_all_seeds_in_all_languages(recipe, primary, pack, tmp_path):
    run(recipe, training={"seeds": [0, 1]})
    for language in ("de", "es"):
        write_texts(tmp_path / "texts", language)
    packs = {"mini-de": pack, "standard-de": make_pack(primary, tmp_path / "other", seed=2)}
    packs["mini-es"] = make_pack(primary, tmp_path / "es", "es")
    values = evaluate_recipe(tmp_path, packs)
    write_pages(tmp_path / "pages", ("en", "de", "es"))
    values["model"]["primary"] = str(primary)
    values["measures"] = {"retrieval": {"files": str(tmp_path / "pages" / "libreoffice-help.{language}.jsonl")}}
    results = evaluate(EvaluateRecipe.model_validate(values))
    directory = tmp_path / "runs" / "zero-shot"
    written = json.loads((directory / "results.json").read_text())
    assert len(written) == len(results) == 2 * 4 + 3
    keys = {(one["language"], one["pack"], one["seed"]) for one in written if one["task"] == "topic"}
    assert keys == {
        (language, name, seed)
        for seed in (0, 1)
        for language, name in (("en", None), ("de", "mini-de"), ("de", "standard-de"), ("es", "mini-es"))
    }
    # The source is as fine-tuning measured it, and as it is once packs were swapped in and out.
    again = evaluate(
        EvaluateRecipe.model_validate(
            {**values, "tasks": {"topic": {**values["tasks"]["topic"], "languages": ["de", "en"]}}}
        )
    )
    for seed in (0, 1):
        (tuned,) = [
            one for one in json.loads((tmp_path / "runs/tuned/results.json").read_text()) if one["seed"] == seed
        ]
        for several in (results, again):
            (source,) = [one for one in several if one.task == "topic" and one.language == "en" and one.seed == seed]
            assert source.values["accuracy"] == tuned["accuracy"]
            assert source.values["macro_f1"] == tuned["macro_f1"]
    table = (directory / "table.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "en", "de (mini-de)", "de (standard-de)", "es (mini-es)", "average (mini)",
    ]  # fmt: skip


def test_tables_and_means_by_hand():
    def result(language, value, pack=None, seed=0):
        return Result("xnli", language, "accuracy", {"accuracy": value}, 100, "m", pack, seed)

    results = [
        result("de", 0.5, "de"), result("en", 0.8), result("de", 0.6, "de", 1), result("en", 0.9, seed=1),
        result("es", 0.75, "es"), result("es", 0.65, "es", 1),
    ]  # fmt: skip
    assert [(mean.language, round(mean.mean, 3), round(mean.deviation, 4)) for mean in means(results)] == [
        ("de", 0.55, 0.0707),
        ("en", 0.85, 0.0707),
        ("es", 0.7, 0.0707),
    ]
    assert table_of(results, "en").splitlines() == [
        "| language | xnli (accuracy) |",
        "| --- | ---: |",
        "| en | 85.0 ± 7.1 |",
        "| de | 55.0 ± 7.1 |",
        "| es | 70.0 ± 7.1 |",
        "| average | 62.5 |",
    ]


def test_of_a_series_the_table_shows_the_first_and_the_last():
    def result(language, updates, value):
        learned = Learned("mini", "mini", updates, updates, updates, updates)
        return Result("xnli", language, "accuracy", {"accuracy": value}, 9, "m", f"mini/{updates}", learned=learned)

    results = [result(one, updates, updates / 100) for one in ("de", "es") for updates in (0, 20, 40)]
    assert table_of(results, "en").splitlines()[2:] == [
        "| de (mini) | 40.0 |", "| de (mini, 0 updates) | 0.0 |", "| es (mini) | 40.0 |",
        "| es (mini, 0 updates) | 0.0 |", "| average (mini) | 40.0 |", "| average (mini, 0 updates) | 0.0 |",
    ]  # fmt: skip


def test_no_deepspeed_is_imported_without_the_launcher(recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    program = (
        "import runpy, sys; sys.argv = ['finetune.py', sys.argv[1]]; "
        "runpy.run_path('launch/finetune.py', run_name='__main__'); "
        "sys.exit('deepspeed' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "recipe.yaml")], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_states_on_disk_are_for_pretraining():
    from megamini.downstream.finetuning.deepspeed import trainer_configuration

    with pytest.raises(UserError, match=r"zero3_nvme.json: .*offload_optimizer.device: nvme is for pretraining"):
        trainer_configuration(str(ROOT / "ds_configs/zero3_nvme.json"), "bf16")

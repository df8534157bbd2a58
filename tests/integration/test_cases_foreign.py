"""Foreign tokenizers and checkpoints from prepared text to a plugged model."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from megamini import plug
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.relearn import adapt
from megamini.data.preparation.prepare import Settings, prepare
from megamini.data.tokenizer import load_tokenizer
from megamini.downstream.evaluation.evaluate import plan
from megamini.downstream.recipe import EvaluateRecipe
from megamini.recipes.recipe import Recipe
from megamini.training.run import pretrain_plain
from tests.downstream.workplace import evaluate_recipe, finetune_recipe, make_pack, make_primary, write_texts
from tests.launch.workplace import PROSE, RECIPE, changed, make_data

WORDS = "river water\nbread bread\nhouse house\nodd\nthe the\nof of\n"


def with_pad(data: Path, folder: Path, role: str) -> Path:
    """The tokenizer of a data directory, padding with the token of another role."""
    tokenizer = load_tokenizer(data)
    tokenizer.pad_token = getattr(tokenizer, f"{role}_token")
    tokenizer.save_pretrained(folder)
    return folder


def prepared(out: Path, language: str, tokenizer: Path) -> Path:
    settings = Settings(language, block_length=32, validation_share=0.2, tokenizer=str(tokenizer))
    prepare([str(PROSE)], out, settings, processes=1)
    return out


def adapting(folder: Path, name: str, source: Path, data: Path, **changes) -> dict:
    values = {
        "name": name,
        "adaptation": {"source": str(source), "method": "standard", "dropout": 0.0},
        "data": {"path": str(data), "workers": 0},
        "optimizer": {"learning_rate": 5e-3},
        "schedule": {"duration": "2 updates", "warmup": "1 updates"},
        "training": {"global_batch": 4, "micro_batch": 4, "precision": "fp32", "runs": str(folder / "runs")},
        "telemetry": {"every": 1, "validate_every": "1 updates", "peak_tflops": 1.0},
    }
    return changed(values, {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    make_data(folder / "data")
    return folder


def pretrained(folder: Path, name: str, data: Path, **changes) -> Path:
    from tests.integration.adapting import export

    values = changed(
        {**RECIPE, "name": name, "data": {"path": str(data), "workers": 0}},
        {"training": {**RECIPE["training"], "runs": str(folder / "runs")}, **changes},
    )
    pretrain_plain(Recipe.model_validate(values))
    if not (folder / f"export-{name}").exists():
        export(str(folder / "runs" / name), str(folder / f"export-{name}"))
    return folder / f"export-{name}"


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_a_pad_that_ends_texts_from_text_to_a_plugged_model(family, place):
    data = place / f"data-{family}"
    prepared(data, "en", with_pad(place / "data", place / f"tokenizer-{family}", "eos"))
    source = pretrained(place, family, data, **{"model.family": family})
    assert load_tokenizer(source).pad_token_id == load_tokenizer(source).eos_token_id
    # A language whose tokenizer has a pad of its own, and one whose has not.
    for language, own in (("de", place / "data"), ("it", data)):
        target = prepared(place / f"{family}-{language}", language, own)
        adapt(AdaptationRecipe.model_validate(adapting(place, f"{family}-{language}", source, target)))
        model = AutoModelForMaskedLM.from_pretrained(source)
        pack = place / "runs" / f"{family}-{language}" / "packs" / language
        tokenizer = plug(model, AutoTokenizer.from_pretrained(source), pack)
        encoded = tokenizer(["The river.", "The river carries water to the sea."], padding=True, return_tensors="pt")
        with torch.no_grad():
            assert model(**encoded).logits.isfinite().all()


def test_a_matrix_larger_than_its_tokenizer_is_pretrained_from_and_adapted_over(place, capsys):
    whole = shutil.copytree(pretrained(place, "plain", place / "data"), place / "whole")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(whole), load_tokenizer(whole)
    model.resize_token_embeddings(448, mean_resizing=False)
    del model.config.megamini
    model.save_pretrained(whole)
    tokenizer.save_pretrained(whole)

    again = changed({**RECIPE}, {"name": "again", "model": {"from_checkpoint": str(whole), "exits": [2]}})
    again["data"], again["training"] = (
        {"path": str(place / "data")},
        {**RECIPE["training"], "runs": str(place / "runs")},
    )
    pretrain_plain(Recipe.model_validate(again))

    (place / "words.txt").write_text(WORDS)
    target = prepared(place / "data-es", "es", place / "data")
    for start in ("lexicon", "focus", "random"):
        changes = {"adaptation__initialise": start}
        if start != "random":
            changes["adaptation__lexicon"] = str(place / "words.txt")
        adapt(AdaptationRecipe.model_validate(adapting(place, f"over-{start}", whole, target, **changes)))
        assert ("1 of 6 lines are passed over" in capsys.readouterr().out) == (start != "random")
        pack = LanguagePack.load(place / "runs" / f"over-{start}" / "packs" / "es")
        for folder in (whole, place / "export-plain"):  # the same embeddings, with and without the rows of no piece
            one = AutoModelForMaskedLM.from_pretrained(folder)
            plug(one, load_tokenizer(folder), pack)
            assert len(one.get_input_embeddings().weight) == 400


def test_a_pack_of_the_source_language_is_said(place, tmp_path, capsys):
    source, target = pretrained(place, "plain", place / "data"), place / "data"
    adapt(AdaptationRecipe.model_validate(adapting(tmp_path, "english", source, target)))
    assert "en: is the source's own language" in capsys.readouterr().out
    from megamini.downstream.finetuning.finetune import finetune
    from megamini.downstream.recipe import FinetuneRecipe

    primary = make_primary(tmp_path / "primary")
    packs = {name: make_pack(primary, tmp_path / name, name) for name in ("en", "de")}
    for language in ("en", "de"):
        write_texts(tmp_path / "texts", language)
    finetune(FinetuneRecipe.model_validate(finetune_recipe(primary, tmp_path)))
    capsys.readouterr()
    plan(EvaluateRecipe.model_validate(evaluate_recipe(tmp_path, packs)))
    assert "packs.en: of the source language 'en'" in capsys.readouterr().out

"""Pseudo examples with a fine-tuned model's labels, and fine-tuning on them as further training data."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import megamini
from megamini.downstream.finetuning.finetune import finetune
from megamini.downstream.finetuning.jobs import load_primary, prepare_job
from megamini.downstream.recipe import FinetuneRecipe
from megamini.downstream.tasks.custom import read_labelled
from megamini.errors import UserError
from tests.downstream.workplace import finetune_recipe, make_pack, write

LIST = "das\tthe\ndie\tthe\nMühle\tmill\nam Fluss\tby the river\nGlocke\tbell\nist\tis\nalt\told\nund\tand\n"
SAID = {"travel": "The mill is old and the river", "sports": "And the bell is by the river bell bell"}


def texts(folder: Path) -> None:
    for split, count in (("train", 20), ("dev", 4)):
        rows = [f"{n}\t{label}\t{text} {n}" for n in range(count) for label, text in SAID.items()]
        write(folder / "eng_Latn" / f"{split}.tsv", "\n".join(["index_id\tcategory\ttext", *rows]) + "\n")


def tags(folder: Path) -> None:
    sentence = "The\tO\nmill\tB-LOC\nis\tO\nold\tO\nand\tO\nthe\tO\nbell\tB-ORG\n\u200b\tO\n"
    for split in ("train", "dev"):
        write(folder / f"{split}-en.tsv", "\n".join([sentence] * 10))


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    return write(tmp_path / "de.tsv", LIST)


def tuned(primary: Path, folder: Path, task: str, **section) -> Path:
    recipe = finetune_recipe(primary, folder)
    recipe = {**recipe, "tasks": {task: {"path": str(folder / task), **section}}, "schedule": {"updates": 30}}
    recipe = FinetuneRecipe.model_validate({**recipe, "optimizer": {"learning_rate": 0.01}})
    finetune(recipe)
    return recipe.run_directory / task / "seed-0"


def translate(task: str, folder: Path, lexicon: Path, out: Path, *options: object) -> None:
    how = ["--task", task, "--path", folder / task, "--lexicon", lexicon, "--out", out, *options]
    sys.argv = ["tools/translate_words.py", *map(str, how)]
    runpy.run_path("tools/translate_words.py", run_name="__main__")


@pytest.mark.parametrize("with_pack", [False, True])
def test_classes_are_what_the_model_says_of_pseudo_text(with_pack, primary, tmp_path, lexicon, capsys):
    texts(tmp_path / "sib200")
    model, out = tuned(primary, tmp_path, "sib200"), tmp_path / "pseudo/train.de.jsonl"
    pack = ["--pack", make_pack(primary, tmp_path / "pack")] if with_pack else []
    translate("sib200", tmp_path, lexicon, tmp_path / "kept.jsonl")
    translate("sib200", tmp_path, lexicon, out, "--label-by", model, *pack)
    kept, found = (read_labelled(file, "classification") for file in (tmp_path / "kept.jsonl", out))
    assert [one.texts for one in kept] == [one.texts for one in found]
    reader, tokenizer = AutoModelForSequenceClassification.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    tokenizer = megamini.plug(reader, tokenizer, pack[1]) if pack else tokenizer
    with torch.no_grad():
        for one in found:
            logits = reader.eval()(**tokenizer(one.texts[0], return_tensors="pt")).logits
            assert one.label == reader.config.id2label[int(logits.argmax())]
    changed = sum(one.label != other.label for one, other in zip(kept, found, strict=True))
    assert f"seed-0: gives {changed} of {len(kept)} labels anew" in capsys.readouterr().out


def test_tags_are_the_models_and_a_word_without_a_piece_keeps_its_own(primary, tmp_path, lexicon):
    tags(tmp_path / "panx")
    model, out = tuned(primary, tmp_path, "panx"), tmp_path / "train.de.conll"
    write(tmp_path / "panx/train-en.tsv", "the\tB-ORG\nmill\tB-ORG\nand\tB-ORG\nbell\tB-ORG\n\u200b\tB-PER\n")
    translate("panx", tmp_path, lexicon, out, "--label-by", model)
    (found,) = read_labelled(out, "tagging")
    assert found.words[1] == "Mühle" and found.tags[-1] == "B-PER" and found.tags != ("B-ORG",) * 4 + ("B-PER",)


def test_further_training_data_count_in_training_and_in_provenance(primary, tmp_path, lexicon):
    texts(tmp_path / "sib200")
    file = write(
        tmp_path / "train.de.jsonl",
        "".join(json.dumps({"text": f"die Mühle {n}", "label": "travel"}) + "\n" for n in range(7)),
    )
    recipe = finetune_recipe(primary, tmp_path)
    section = {"path": str(tmp_path / "sib200"), "limit": 10, "further": [str(file)]}
    checked = FinetuneRecipe.model_validate({**recipe, "tasks": {"sib200": section}})
    job = prepare_job(checked, load_primary(checked), "sib200")
    assert len(job.training) == 17 and job.training[-1].texts == ("die Mühle 6",) and len(job.validation) == 8
    tuned(primary, tmp_path, "sib200", further=[str(file)])
    write(file, json.dumps({"text": "die Glocke", "label": "sports"}) + "\n")
    with pytest.raises(UserError, match="the data of sib200 have changed"):
        tuned(primary, tmp_path, "sib200", further=[str(file)])
    write(file, json.dumps({"text": "die Glocke", "label": "bells"}) + "\n")
    with pytest.raises(UserError, match=r"label 'bells' of split train and .*train\.de\.jsonl is not in the task"):
        tuned(primary, tmp_path, "sib200", further=[str(file)])


def test_what_cannot_give_labels_is_one_line(primary, tmp_path, lexicon, capsys):
    texts(tmp_path / "sib200")
    tags(tmp_path / "panx")
    model, out = tuned(primary, tmp_path, "sib200"), tmp_path / "train.de.jsonl"
    for task, options, said in (
        ("panx", ["--label-by", model], "fine-tuned for classification, but panx is tagging"),
        ("sib200", ["--label-by", primary], "not a fine-tuned model"),
        ("sib200", ["--pack", tmp_path], "--pack goes with --label-by"),
        ("sib200", ["--label-by", model, "--pack", tmp_path], "pack.json: No such file"),
    ):
        file = out if task == "sib200" else out.with_suffix(".conll")
        with pytest.raises(SystemExit) as ended:
            translate(task, tmp_path, lexicon, file, *options)
        error = capsys.readouterr().err
        assert ended.value.code == 2 and said in error and error.count("\n") == 1
        assert not file.exists()

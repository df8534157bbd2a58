"""Bad input of fine-tuning and evaluation ends with one line that names the file, key or row, and status 2."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM

from megamini import errors
from megamini.downstream.finetuning.finetune import finetune
from megamini.downstream.recipe import FinetuneRecipe
from tests.downstream.workplace import evaluate_recipe, finetune_recipe, make_pack, write, write_pages, write_texts
from tests.launch.workplace import the_line, truncate

REMOVED = object()


@pytest.fixture(scope="module")
def tuned(primary: Path, tmp_path_factory) -> Path:
    """A folder with a complete run of one seed."""
    folder = tmp_path_factory.mktemp("tuned")
    write_texts(folder / "texts", "en")
    finetune(FinetuneRecipe.model_validate(finetune_recipe(primary, folder)))
    return folder


class Place:
    """One case's folder: its data, a copy of the run, and recipes with a key changed."""

    def __init__(self, folder: Path, primary: Path, pack: Path, tuned: Path) -> None:
        self.folder, self.primary, self.pack, self.tuned = folder, primary, pack, tuned
        for language in ("en", "de"):
            write_texts(folder / "texts", language)

    def finetune(self, changes: dict[str, Any] | None = None) -> list[str]:
        return self._written(finetune_recipe(self.primary, self.folder), changes)

    def evaluate(self, changes: dict[str, Any] | None = None) -> list[str]:
        if not (self.folder / "runs").exists():
            shutil.copytree(self.tuned / "runs", self.folder / "runs")
        return self._written(evaluate_recipe(self.folder, {"de": self.pack}), changes)

    def _written(self, values: dict, changes: dict[str, Any] | None) -> list[str]:
        for name, value in (changes or {}).items():
            *sections, key = name.split(".")
            section = reduce(lambda part, one: part.setdefault(one, {}), sections, values)
            section[key] = value
            if value is REMOVED:
                del section[key]
        return [str(write(self.folder / "recipe.yaml", yaml.safe_dump(values)))]


Case = tuple[Callable[[Place], list[str]], tuple[str, ...]]


def other_lineage(place: Place) -> str:
    """A pack learned beside other token embeddings."""
    model = AutoModelForMaskedLM.from_pretrained(place.primary)
    with torch.no_grad():
        model.get_input_embeddings().weight[9, 0] += 5
    shutil.copytree(place.primary, place.folder / "other")
    model.save_pretrained(place.folder / "other")
    return str(make_pack(place.folder / "other", place.folder / "foreign"))


def broken_pack(place: Place) -> str:
    shutil.copytree(place.pack, place.folder / "pack")
    truncate(place.folder / "pack/embeddings.safetensors")
    return str(place.folder / "pack")


def with_texts(place: Place, name: str, text: str) -> list[str]:
    write(place.folder / "texts" / name, text)
    return place.finetune()


def task(place: Place, name: str, **keys: Any) -> dict[str, dict]:
    return {name: {"path": str(place.folder / "data"), **keys}}


def squad(place: Place, context: str, start: int) -> dict:
    answer = {"text": "Rhein", "answer_start": start}
    question = {"id": "1", "question": "Wo?", "answers": [answer]}
    data = {"data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}
    write(place.folder / "data" / "train-v1.1.json", json.dumps(data))
    return task(place, "squad")


FINETUNE: dict[str, Case] = {
    "unknown section": (lambda p: p.finetune({"modle": {}}), ("recipe.yaml", "unknown key 'modle'", "'model'")),
    "unknown key": (
        lambda p: p.finetune({"training.seed": 1}),
        ("unknown key 'training.seed'", "did you mean 'seeds'"),
    ),
    "unknown key of a task": (
        lambda p: p.finetune({"tasks.topic.pth": "x"}),
        ("unknown key 'tasks.topic.pth'", "did you mean 'path'"),
    ),
    "unknown task": (lambda p: p.finetune({"tasks": task(p, "xnil")}), ("unknown task 'xnil'", "did you mean 'xnli'")),
    "no task": (lambda p: p.finetune({"tasks": {}}), ("recipe.yaml", "tasks")),
    "task name with a slash": (lambda p: p.finetune({"tasks": task(p, "a/b")}), ("recipe.yaml", "tasks", "a/b")),
    "custom without files": (
        lambda p: p.finetune({"tasks.topic.files": REMOVED}),
        ("tasks.topic", "needs kind, path and files"),
    ),
    "files of a task that has its own": (
        lambda p: p.finetune({"tasks": task(p, "xnli", files={"train": "x"})}),
        ("tasks.xnli", "go with task: custom"),
    ),
    "both path and dataset": (lambda p: p.finetune({"tasks.topic.dataset": "x"}), ("tasks.topic", "not both")),
    "repeated seeds": (lambda p: p.finetune({"training.seeds": [1, 1]}), ("training.seeds", "repeat")),
    "no seeds": (lambda p: p.finetune({"training.seeds": []}), ("training.seeds", "at least 1")),
    "no such primary": (lambda p: p.finetune({"model.primary": "./gone"}), ("./gone", "no such folder")),
    "primary that is no checkpoint": (
        lambda p: p.finetune({"model.primary": str(p.folder / "texts")}),
        ("texts", "no config.json of a model can be read"),
    ),
    "primary that is a run": (
        lambda p: p.finetune({"model.primary": str(write(p.folder / "run/recipe.yaml", "name: run").parent)}),
        ("run", "tools/export.py makes one"),
    ),
    "unsupported family": (
        lambda p: p.finetune(
            {"model.primary": str(write(p.folder / "m/config.json", '{"model_type": "gpt2"}').parent)}
        ),
        ("gpt2", "not supported"),
    ),
    "no such folder": (lambda p: p.finetune({"tasks": task(p, "xnli")}), ("data", "no such folder", "XNLI-1.0.zip")),
    "no such files": (
        lambda p: p.finetune({"tasks.topic.files.train": "gone-{language}.tsv"}),
        ("no train data of topic in language 'en'", "gone-en.tsv"),
    ),
    "no such split": (lambda p: p.finetune({"tasks.topic.train_split": "trian"}), ("no split 'trian'", "test, train")),
    "unknown file format": (
        lambda p: (write(p.folder / "texts/a.csv", "a,b"), p.finetune({"tasks.topic.files.train": "a.csv"}))[1],
        ("a.csv", ".tsv or .jsonl"),
    ),
    "bad row": (lambda p: with_texts(p, "train-en.tsv", "good\tyes\nbad\n"), ("train-en.tsv", "row 2", "1 tab-sep")),
    "empty label": (lambda p: with_texts(p, "train-en.tsv", "good\tyes\nbad\t\n"), ("train-en.tsv", "row 2", "empty")),
    "empty file": (lambda p: with_texts(p, "train-en.tsv", ""), ("train-en.tsv",)),
    "one label": (lambda p: with_texts(p, "train-en.tsv", "a\tyes\n"), ("one label only", "'yes'")),
    "label that was not trained on": (lambda p: with_texts(p, "test-en.tsv", "a\tmaybe\n"), ("'maybe'", "split test")),
    "misplaced answer": (
        lambda p: p.finetune({"tasks": squad(p, "Am Rhein", 1)}),
        ("train-v1.1.json", "data[0].paragraphs[0].qas[0]", "'Rhein'"),
    ),
    "input longer than the model": (
        lambda p: p.finetune({"tasks.topic.max_length": 512}),
        ("tasks.topic.max_length", "512", "positions for 64"),
    ),
    "runs is a file": (
        lambda p: p.finetune({"training.runs": str(write(p.folder / "taken", ""))}),
        ("training.runs", "taken", "choose another folder"),
    ),
    "override without a value": (lambda p: [*p.finetune(), "training"], ("'training' is no override",)),
    "unknown option": (lambda p: [*p.finetune(), "--sed=1"], ("--sed",)),
    "no such recipe": (lambda p: [str(p.folder / "gone.yaml")], ("gone.yaml", "give the path of a recipe")),
}

EVALUATE: dict[str, Case] = {
    "unknown key": (lambda p: p.evaluate({"pakcs": {}}), ("unknown key 'pakcs'", "'packs'")),
    "unknown key of a measure": (
        lambda p: p.evaluate({"measures.retrieval": {"file": "x"}}),
        ("unknown key 'measures.retrieval.file'", "'files'"),
    ),
    "unknown task": (lambda p: p.evaluate({"tasks": task(p, "xqaud")}), ("'xqaud'", "did you mean 'xquad'")),
    "nothing to do": (lambda p: p.evaluate({"tasks": {}}), ("nothing to evaluate",)),
    "word lists without lines": (
        lambda p: p.evaluate({"tasks.topic.word_lists": "{language}.tsv"}),
        ("tasks.topic.word_lists", "reference_lines: true"),
    ),
    "word lists of what": (
        lambda p: p.evaluate({"tasks.topic.reference_lines": True, "tasks.topic.word_lists": "{lang}.tsv"}),
        ("tasks.topic.word_lists", "{language}"),
    ),
    "no such word list": (
        lambda p: p.evaluate({"tasks.topic.reference_lines": True, "tasks.topic.word_lists": "{language}.tsv"}),
        ("de.tsv", "word list"),
    ),
    "no models": (lambda p: p.evaluate({"model.finetuned": REMOVED}), ("tasks.topic", "model.finetuned")),
    "no such model": (
        lambda p: p.evaluate({"model.finetuned": "gone"}),
        ("tasks.topic", "gone/topic", "launch/finetune.py"),
    ),
    "model without a task": (
        lambda p: p.evaluate({"tasks.topic.models": [str(p.primary)]}),
        ("export", "not a fine-tuned model"),
    ),
    "model of another kind": (
        lambda p: (
            write(p.folder / "c.conll", "a O\n"),
            p.evaluate({"tasks.topic.kind": "tagging", "tasks.topic.files.test": "../c.conll"}),
        )[1],
        ("seed-0", "fine-tuned for classification", "tagging"),
    ),
    "labels of another task": (
        lambda p: (write(p.folder / "texts/test-de.tsv", "a\tmaybe\n"), p.evaluate())[1],
        ("seed-0", "'maybe'", "'de'", "bread, water"),
    ),
    "no such pack": (lambda p: p.evaluate({"packs.de": "gone"}), ("gone/pack.json", "folder of a language pack")),
    "torn pack": (lambda p: p.evaluate({"packs.de": broken_pack(p)}), ("embeddings.safetensors", "checksum")),
    "pack of another lineage": (
        lambda p: p.evaluate({"packs.de": other_lineage(p)}),
        ("pack 'de' does not fit this model", "other token embeddings"),
    ),
    "language without a pack": (
        lambda p: p.evaluate({"tasks.topic.languages": ["en", "fr"]}),
        ("tasks.topic.languages", "'fr'", "there are de"),
    ),
    "language without data": (
        lambda p: ((p.folder / "texts/test-de.tsv").unlink(), p.evaluate())[1],
        ("no test data of topic in language 'de'", "test-de.tsv"),
    ),
    "torn weights": (
        lambda p: (
            arguments := p.evaluate(),
            truncate(p.folder / "runs/tuned/topic/seed-0/model.safetensors"),
            arguments,
        )[2],
        ("seed-0", "cannot be loaded"),
    ),
    "measures without a primary": (
        lambda p: p.evaluate({"measures.retrieval.files": "x"}),
        ("give model.primary",),
    ),
    "no pages": (
        lambda p: p.evaluate({"measures.retrieval.files": "gone.{language}", "model.primary": str(p.primary)}),
        ("gone.en", "no such file", "measures.retrieval.files"),
    ),
    "no shared pages": (
        lambda p: (
            write_pages(p.folder, ("en",), 2),
            write(p.folder / "libreoffice-help.de.jsonl", '{"id": "x", "text": "y"}\n'),
            p.evaluate({
                "measures.retrieval.files": str(p.folder / "libreoffice-help.{language}.jsonl"),
                "model.primary": str(p.primary),
            }),
        )[2],
        ("measures.retrieval.files", "share 0 pages"),
    ),
    "no such data directory": (
        lambda p: p.evaluate({"measures.bits_per_byte.data": {"de": "gone"}, "model.primary": str(p.primary)}),
        ("gone", "no finished data directory"),
    ),
    "a decoder's option for an encoder": (
        lambda p: p.evaluate(
            {"measures.bits_per_byte": {"data": {"de": "x"}, "window": 9}, "model.primary": str(p.primary)}
        ),
        ("measures.bits_per_byte.window", "an encoder, which has no use for it"),
    ),
}  # fmt: skip

CASES = [
    pytest.param(entry, *case, id=f"{entry}-{name}")
    for entry, cases in (("finetune", FINETUNE), ("evaluate", EVALUATE))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("entry", "break_it", "words"), CASES)
def test_bad_input_is_one_line(entry, break_it, words, primary, pack, tuned, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    arguments = break_it(Place(tmp_path, primary, pack, tuned))
    main = importlib.import_module(f"launch.{entry}").main
    capfd.readouterr()
    with mock.patch.object(sys, "argv", [f"{entry}.py", *arguments]), pytest.raises(SystemExit) as ended:
        errors.run_command(main)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    line = the_line(err)
    assert ended.value.code == 2
    assert not [word for word in words if word not in line], line


def test_the_good_recipes_are_good(primary, pack, tuned, tmp_path, monkeypatch, capfd):
    place = Place(tmp_path, primary, pack, tuned)
    for entry, write_recipe in (("finetune", place.finetune), ("evaluate", place.evaluate)):
        main = importlib.import_module(f"launch.{entry}").main
        with mock.patch.object(sys, "argv", [f"{entry}.py", *write_recipe()]):
            main()

"""What each example counts is kept with every measurement, through stops and changes, and is that of the result."""

import json
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from megamini.downstream.evaluation.evaluate import evaluate
from megamini.downstream.evaluation.measured import Measured
from megamini.downstream.evaluation.scores import Scores, read_scores
from megamini.downstream.finetuning.finetune import finetune
from megamini.downstream.metrics.measurement import ratio
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.errors import UserError
from tests.downstream.workplace import evaluate_recipe, finetune_recipe, make_pack, write_pages, write_texts

MEASUREMENTS = 2 + 1 + 2  # the model in en and de, retrieval, and the lines surface and in-language


@pytest.fixture(scope="module")
def tuned(primary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned model, a pack, texts and pages; copied by each test."""
    folder = tmp_path_factory.mktemp("tuned")
    for language in ("en", "de"):
        write_texts(folder / "texts", language)
    write_pages(folder / "pages", ("en", "de"))
    finetune(FinetuneRecipe.model_validate(finetune_recipe(primary, folder)))
    make_pack(primary, folder / "packs/de")
    return folder


@pytest.fixture
def values(primary: Path, tuned: Path, tmp_path: Path) -> dict:
    """The recipe of an evaluation of a task, with reference lines, and of retrieval."""
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    recipe = evaluate_recipe(tmp_path, {"de": tmp_path / "packs/de"})
    recipe["tasks"]["topic"]["reference_lines"] = True
    recipe["model"]["primary"] = str(primary)
    recipe["measures"] = {"retrieval": {"files": str(tmp_path / "pages/libreoffice-help.{language}.jsonl")}}
    recipe["evaluation"]["keep_scores"] = True
    return recipe


def run(values: dict, **changed: bool) -> Path:
    recipe = EvaluateRecipe.model_validate({**values, "evaluation": {**values["evaluation"], **changed}})
    evaluate(recipe)
    return recipe.run_directory


def files(directory: Path) -> tuple[str, str]:
    return (directory / "results.json").read_text(), (directory / "scores.jsonl").read_text()


def added(values: dict) -> list[str]:
    """The tasks of what is measured anew."""
    tasks, add = [], Measured.add

    def watched(self: Measured, planned, result, parts) -> None:
        tasks.append(planned.task)
        add(self, planned, result, parts)

    with mock.patch.object(Measured, "add", watched):
        run(values)
    return tasks


def test_every_measurement_has_its_line(values):
    directory = run(values)
    results, lines = files(directory)
    entries, lines = json.loads(results), list(map(json.loads, lines.splitlines()))
    assert len(entries) == len(lines) == MEASUREMENTS
    for entry, line in zip(entries, lines, strict=True):
        counted = [line.pop(name, None) for name in ("numerators", "denominators")]
        assert line == {key: entry[key] for key in line}
        assert line.keys() >= {"task", "language", "pack", "model", "seed"}
        assert counted[1] == ([2] * 6 if entry["task"] == "retrieval" else None), "left out where all are 1"
    for result, parts in read_scores(directory):
        assert len(parts) == result.n
        assert ratio(parts) == result.values[result.metric]
    assert not (run({**values, "name": "without"}, keep_scores=False) / "scores.jsonl").exists()


def test_stopped_before_and_behind_every_line(values):
    """Also between the result and its line: none is lost, none is torn, and the end is that of an undisturbed run."""
    whole = run({**values, "name": "undisturbed"})
    add, kept = Scores.add, []

    def stop(before: bool):
        def add_and_stop(self: Scores, entry, parts) -> None:
            if not before:
                add(self, entry, parts)
                kept.append(entry["task"])
            raise KeyboardInterrupt

        return add_and_stop

    while len(kept) < MEASUREMENTS:
        for before in (True, False):
            with mock.patch.object(Scores, "add", stop(before)), pytest.raises(KeyboardInterrupt):
                run(values)
    with mock.patch.object(Measured, "add", side_effect=AssertionError("measured twice")):
        directory = run(values)
    assert files(directory) == files(whole)


def test_a_line_that_is_torn_or_missing_is_measured_again(values):
    before = files(directory := run(values, keep_scores=True))
    path = directory / "scores.jsonl"
    path.write_text(before[1][:-9])
    assert added(values) == ["retrieval"]
    assert files(directory) == before
    path.unlink()
    assert len(added(values)) == MEASUREMENTS
    assert files(directory) == before


def test_results_of_an_earlier_evaluation_get_their_lines(values):
    before = (run(values, keep_scores=False) / "results.json").read_text()
    assert len(added(values)) == MEASUREMENTS
    directory = run(values)
    assert (directory / "results.json").read_text() == before
    assert len(read_scores(directory)) == MEASUREMENTS


def test_lines_of_other_weights_count_for_nothing(values, tmp_path):
    directory = run(values)
    folder = tmp_path / "runs/tuned/topic/seed-0"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.out_proj.bias += torch.tensor([9.0, -9.0])
    model.save_pretrained(folder)
    run(values, keep_scores=False)
    assert {(one.task, one.pack) for one, _ in read_scores(directory)} == {
        ("retrieval", "de"), ("topic", "surface"), ("topic", "in-language"),
    }  # fmt: skip
    assert added(values) == ["topic", "topic"]
    assert len(read_scores(directory)) == MEASUREMENTS
    lines = (directory / "scores.jsonl").read_text()
    (directory / "scores.jsonl").write_text(lines.replace('"numerators":[0', '"numerators":[1', 1))
    assert len(read_scores(directory)) == MEASUREMENTS - 1, "scores that do not make the result"


@pytest.mark.parametrize(
    "line", ["{}", "[1]", "torn", '{"numerators": ["a"]}', '{"numerators": [1, 2], "denominators": [1]}']
)
def test_a_file_of_others_is_refused(line, values):
    path = run(values) / "scores.jsonl"
    if line.startswith('{"n'):
        line = json.dumps({**json.loads(path.read_text().splitlines()[0]), **json.loads(line)})
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"scores.jsonl: line 1: not scores of launch/evaluate.py"):
        run(values)

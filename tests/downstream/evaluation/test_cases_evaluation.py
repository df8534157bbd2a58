"""Nothing measured is lost or measured twice: evaluations that are stopped, repeated, or run side by side."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from megamini.downstream.evaluation import evaluate as module
from megamini.downstream.evaluation.evaluate import evaluate
from megamini.downstream.evaluation.measured import Measured
from megamini.downstream.finetuning.finetune import finetune
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.errors import UserError
from megamini.training.safety.run_lock import run_lock
from tests.downstream.workplace import (
    evaluate_recipe,
    finetune_recipe,
    make_pack,
    make_primary,
    write_pages,
    write_texts,
)
from tests.integration.ranks import Ranks


@pytest.fixture(scope="module")
def tuned(primary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, packs of two languages, and texts; copied by each test that changes any of it."""
    folder = tmp_path_factory.mktemp("tuned")
    for language in ("en", "de", "es"):
        write_texts(folder / "texts", language)
    write_pages(folder / "pages", ("en", "de", "es"))
    values = finetune_recipe(primary, folder)
    values["training"]["seeds"] = [0, 1]
    finetune(FinetuneRecipe.model_validate(values))
    for name, language, seed in (("de", "de", 1), ("de-again", "de", 2), ("es", "es", 3)):
        make_pack(primary, folder / "packs" / name, language, seed)
    return folder


@pytest.fixture
def place(tuned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tuned, tmp_path / "place"))


def recipe(place: Path, primary: Path, *packs: str, name: str = "zero-shot") -> dict:
    """Two tasks with two models each, reference lines, and retrieval."""
    values = evaluate_recipe(place, {pack: place / "packs" / pack for pack in packs})
    task = values["tasks"]["topic"]
    values["tasks"]["again"] = {**task, "reference_lines": True, "models": [str(place / "runs/tuned/topic")]}
    values["model"]["primary"] = str(primary)
    values["measures"] = {"retrieval": {"files": str(place / "pages/libreoffice-help.{language}.jsonl")}}
    return {**values, "name": name}


def run(values: dict) -> list[dict]:
    """What is written of an evaluation."""
    checked = EvaluateRecipe.model_validate(values)
    evaluate(checked)
    return json.loads((checked.run_directory / "results.json").read_text())


def tables(values: dict) -> list[str]:
    directory = EvaluateRecipe.model_validate(values).run_directory
    return [(directory / name).read_text() for name in ("results.json", "summary.json", "table.md")]


def added(values: dict) -> list[dict]:
    """The entries that an evaluation measures anew."""
    new, add = [], Measured.add

    def watched(self: Measured, planned, result, parts) -> None:
        new.append(result.entry())
        add(self, planned, result, parts)

    with mock.patch.object(Measured, "add", watched):
        run(values)
    return new


# 2 tasks x 2 seeds x (en, de, es), the reference lines of de and es, and retrieval of both.
ALL = 2 * 2 * 3 + 2 * 2 + 2


def test_cases_stopped_behind_every_measurement(place: Path, primary: Path) -> None:
    values = recipe(place, primary, "de", "es", name="stopped")
    add, rounds = Measured.add, []

    def stop(self: Measured, planned, result, parts) -> None:
        add(self, planned, result, parts)
        rounds.append((planned.task, planned.language, planned.model, planned.pack))
        raise KeyboardInterrupt

    with mock.patch.object(Measured, "add", stop):
        while len(rounds) < ALL:
            before = len(rounds)
            with pytest.raises(KeyboardInterrupt):
                run(values)
            assert len(rounds) == before + 1
            assert not (place / "runs/stopped/table.md").exists(), "which says that all is measured"
    assert len(set(rounds)) == ALL
    with mock.patch.object(Measured, "add", side_effect=AssertionError("measured twice")):
        run(values)
    run(undisturbed := {**values, "name": "undisturbed"})
    assert tables(values) == tables(undisturbed)


def test_cases_another_precision_is_measured_anew_and_does_not_stand_beside_the_first(
    place: Path, primary: Path
) -> None:
    values = recipe(place, primary, "de", "es", name="precise")
    exact = run(values)
    assert all("precision" not in entry["made_from"] for entry in exact), "as earlier versions have written"
    values["evaluation"]["precision"] = "fp32"
    assert added(values) == [], "what auto is on a CPU"
    values["evaluation"]["precision"] = "bf16"
    anew = added(values)
    assert len(anew) == 2 * 2 * 3 + 2, "the reference lines need no model"
    rough = json.loads((place / "runs/precise/results.json").read_text())
    assert len(rough) == len(exact) == ALL
    assert {entry["made_from"].get("precision") for entry in rough if entry["made_from"]["model"]} == {"bf16"}
    assert all(abs(a[a["metric"]] - b[b["metric"]]) < 0.35 for a, b in zip(exact, rough, strict=True))
    fewer = recipe(place, primary, "de", name="precise")
    fewer["evaluation"]["precision"] = "fp32"
    with pytest.raises(UserError, match=r"measured on the same in another precision \(bf16\) than now"):
        run(fewer)


@pytest.mark.all_combinations
@pytest.mark.launched
def test_cases_killed_at_ten_random_moments(place: Path, primary: Path) -> None:
    values = recipe(place, primary, "de", "es", name="killed")
    (path := place / "killed.yaml").write_text(yaml.safe_dump(values))
    draw, printed, killed = random.Random(0), "", 0
    results = place / "runs/killed/results.json"
    while killed < 10:
        before = results.read_text() if results.exists() else ""
        with Ranks(evaluate_slowly, [str(path)], None, place / "logs") as running:
            deadline = time.monotonic() + 60
            while (results.read_text() if results.exists() else "") == before and running.alive():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.2))
            assert running.alive(), running.printed()
            os.kill(running.pids[0], signal.SIGKILL)
            running.wait(10)
            printed += running.printed()
        killed += 1
    run(values)
    run(undisturbed := {**values, "name": "undisturbed"})
    assert tables(values) == tables(undisturbed)
    lines = [line for line in printed.splitlines() if ", n " in line]
    assert len(lines) == len(set(lines)) >= 5


def evaluate_slowly(path: str) -> None:
    add = Measured.add

    def slow(self: Measured, planned, result, parts) -> None:
        add(self, planned, result, parts)
        time.sleep(0.1)

    with mock.patch.object(Measured, "add", slow):
        evaluate(EvaluateRecipe.model_validate(yaml.safe_load(Path(path).read_text())))


def test_cases_results_of_other_packs_are_added(place: Path, primary: Path) -> None:
    first = run(recipe(place, primary, "de"))
    both = added(recipe(place, primary, "es"))
    assert {entry["language"] for entry in both} == {"es"}, "English is measured already"
    written = run(recipe(place, primary, "de", "es"))
    assert len(written) == ALL
    assert [entry for entry in written if entry["language"] != "es"] == first
    run(undisturbed := recipe(place, primary, "de", "es", name="undisturbed"))
    assert tables(recipe(place, primary, "de", "es")) == tables(undisturbed)


def test_cases_a_pack_that_changed_is_measured_again_alone(place: Path, primary: Path) -> None:
    values = recipe(place, primary, "de", "es")
    before = run(values)
    shutil.rmtree(place / "packs/de")
    shutil.copytree(place / "packs/de-again", place / "packs/de")
    new = added(values)
    assert {(entry["pack"], entry["language"]) for entry in new} == {("de", "de")}
    after = run(values)
    assert len(after) == len(before)
    assert [one for one in after if one["pack"] != "de"] == [one for one in before if one["pack"] != "de"]


def test_cases_other_weights_or_examples_do_not_stand_beside(place: Path, primary: Path) -> None:
    run(recipe(place, primary, "de", "es"))
    with (place / "texts/test-de.tsv").open("a") as file:
        file.write("One more\tbread\n")
    assert {entry["language"] for entry in added(recipe(place, primary, "de", "es"))} == {"de"}
    folder = place / "runs/tuned/topic/seed-1"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.out_proj.bias += 1
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"results.json: holds topic in 'de' with pack 'de', measured on other weights"):
        run(recipe(place, primary, "es"))
    new = added(recipe(place, primary, "de", "es"))
    assert {Path(entry["model"]).name for entry in new} == {"seed-1"}
    with (place / "texts/test-de.tsv").open("a") as file:
        file.write("Another one\tbread\n")
    with pytest.raises(UserError, match=r"holds topic in 'de' with pack 'de', measured on other examples"):
        run(recipe(place, primary, "de-again"))


def test_cases_no_mean_over_two_splits_or_two_models(place: Path, primary: Path) -> None:
    """They would stand in one cell of the table."""
    run(recipe(place, primary, "de", "es"))
    values = recipe(place, primary, "de")
    values["tasks"]["topic"] |= {"split": "train"}
    with pytest.raises(UserError, match=r"holds topic in 'en', measured on another split \(test\)"):
        run(values)
    other = shutil.copytree(place / "runs/tuned", place / "runs/other")
    for folder in other.glob("topic/seed-*"):
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        with torch.no_grad():
            model.classifier.out_proj.bias += 1
        model.save_pretrained(folder)
    values = recipe(place, primary, "de")
    values["model"]["finetuned"] = str(other)
    with pytest.raises(UserError, match=r"holds topic in 'en', measured on another model \(.*/tuned/topic/seed-0\)"):
        run(values)


def test_cases_known_by_content_from_another_folder(place: Path, primary: Path, monkeypatch) -> None:
    values = recipe(place, primary, "de")
    written = run(values)
    monkeypatch.chdir(place)
    values["model"]["finetuned"] = "runs/tuned"
    values["tasks"]["again"]["models"] = ["runs/tuned/topic"]
    values["tasks"]["topic"]["path"] = "texts"
    values["packs"] = {"de": "packs/de"}
    values["evaluation"]["runs"] = "runs"
    assert added(values) == []
    assert len(run(values)) == len(written)


def test_cases_two_evaluations_at_once(place: Path, primary: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0)
    values = recipe(place, primary, "de")
    with run_lock(place / "runs/zero-shot", "evaluation.runs"):
        with pytest.raises(UserError, match=rf"zero-shot: another run writes there \(process {os.getpid()} on"):
            run(values)
    assert not (place / "runs/zero-shot/results.json").exists()
    assert run(values)


def test_cases_too_large_a_batch_is_one_line(place: Path, primary: Path, monkeypatch) -> None:
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.25 GiB.")

    monkeypatch.setattr(torch.nn.functional, "embedding", fail)
    with pytest.raises(
        UserError, match=r"^evaluation\.batch: \d+ inputs at once: out of GPU memory: 1\.25 GiB .*; lower"
    ):
        run(recipe(place, primary, "de"))


def test_cases_all_packs_fit_before_the_first_measurement(place: Path, primary: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_primary(tmp_path / "other/export")
    weights = load_file(other / "model.safetensors")
    matrix = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[matrix][7, 3] += 5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    make_pack(other, place / "packs/wrong", "es")
    with mock.patch.object(Measured, "add", side_effect=AssertionError("measured")):
        with pytest.raises(UserError, match=r"packs.wrong, .*seed-0: pack 'es' does not fit this model"):
            run(recipe(place, primary, "de", "wrong"))


def test_cases_results_of_an_earlier_version(place: Path, primary: Path) -> None:
    """Without fingerprints: what is asked for is measured anew, and the rest stays."""
    values = recipe(place, primary, "de", "es")
    written = run(values)
    path = place / "runs/zero-shot/results.json"
    path.write_text(json.dumps([{k: v for k, v in one.items() if k != "made_from"} for one in written]))
    assert {entry["language"] for entry in added(recipe(place, primary, "de"))} == {"en", "de"}
    assert len(json.loads(path.read_text())) == ALL

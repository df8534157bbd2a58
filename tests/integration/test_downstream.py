"""Fine-tuning and zero-shot evaluation from the command line, every task on real data, by a model too small to learn.

The data lie beside the project (`../shared/data`, described there) and are not part of it.
"""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForMaskedLM

from megamini.downstream.task_model import load_task_model
from megamini.downstream.tasks.registry import TASKS
from tests.downstream.workplace import (
    evaluate_recipe,
    finetune_recipe,
    make_pack,
    make_primary,
    write_pages,
    write_texts,
)
from tests.integration.launching import ROOT, free_port, run_command
from tests.integration.ranks import Ranks, with_other_code_on_rank_1

pytestmark = pytest.mark.launched

DATA = ROOT.parent / "shared" / "data"
UPDATES, EXAMPLES = 3, 24
# What each is trained on, and evaluated on (by the split that is there).
TRAINED = {
    "xnli": {"path": "xnli"},
    # There is no English training set here: its dev set trains, which is no result.
    "pawsx": {"path": "pawsx", "train_split": "dev", "validation_split": "test"},
    # The answers of the dev set here are blanked, as XTREME does it.
    "squad": {"path": "tydiqa", "validation_split": "train"},
    "sib200": {"path": "sib200"},
    "panx": {"path": "panx"},
    "ud_pos": {"path": "ud_pos"},
}
EVALUATED = {
    "xnli": {"path": "xnli"},
    "pawsx": {"path": "pawsx"},
    "mlqa": {"path": "mlqa", "split": "dev"},
    "xquad": {"path": "xquad"},
    "sib200": {"path": "sib200"},
    "panx": {"path": "panx", "split": "dev"},
    "ud_pos": {"path": "ud_pos"},
}
METRICS = {
    "classification": {"accuracy", "macro_f1"},
    "question-answering": {"f1", "exact_match"},
    "panx": {"accuracy", "precision", "recall", "f1"},
    "ud_pos": {"accuracy"},
}


def launch(entry: str, recipe: dict, folder: Path, *more: str, deepspeed: tuple[str, ...] = ()) -> str:
    path = folder / f"{entry}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = run_command([*(deepspeed or (sys.executable,)), f"launch/{entry}.py", str(path), *more], timeout=170)
    assert done.returncode == 0, done.stdout
    return done.stdout


def sections(tasks: dict[str, dict], examples: int, **more) -> dict[str, dict]:
    """The tasks' sections with their data's real folders; pages and a user's own task lie in `pages` and `texts`."""
    return {name: {**keys, "path": str(DATA / keys["path"]), "limit": examples, **more} for name, keys in tasks.items()}


def finetuned_and_evaluated(folder: Path, updates: int, examples: int, seeds: list[int]) -> list[dict]:
    """The results of two commands: all tasks fine-tuned, then all evaluated in English and German."""
    primary = make_primary(folder / "primary")
    pack = make_pack(primary, folder / "de")
    write_pages(folder / "pages", ("en", "de"), 40)
    write_texts(folder / "texts", "en")
    write_texts(folder / "texts", "de")
    pages = {"libreoffice": {"path": str(folder / "pages")}}

    tasks = {**sections(TRAINED, examples), **pages, **finetune_recipe(primary, folder)["tasks"]}
    recipe = finetune_recipe(primary, folder, **tasks)
    recipe["schedule"]["updates"] = updates
    recipe["training"]["seeds"] = seeds
    launch("finetune", recipe, folder)

    tasks = {**sections(EVALUATED, examples), **pages, **evaluate_recipe(folder, {})["tasks"]}
    for name in ("mlqa", "xquad"):
        tasks[name]["models"] = [str(folder / "runs/tuned/squad")]
    recipe = evaluate_recipe(folder, {"de": pack}, **tasks)
    launch("evaluate", recipe, folder)
    return json.loads((folder / "runs/zero-shot/results.json").read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    if not DATA.is_dir():
        pytest.skip(f"the real evaluation data are not here ({DATA})")
    folder = tmp_path_factory.mktemp("downstream")
    return folder, finetuned_and_evaluated(folder, UPDATES, EXAMPLES, [0])


@pytest.mark.parametrize("task", [*EVALUATED, "libreoffice", "topic"])
def test_every_task_end_to_end(task, results, record_property):
    folder, entries = results
    own = [entry for entry in entries if entry["task"] == task]
    assert [(entry["language"], entry["pack"], entry["seed"]) for entry in own] == [("en", None, 0), ("de", "de", 0)]
    kind = TASKS[task].kind if task in TASKS else "classification"
    for entry in own:
        assert METRICS.get(task, METRICS.get(kind)) <= entry.keys()
        assert 0 <= entry[entry["metric"]] <= 1
        assert entry["n"] >= 1 if task == "libreoffice" else entry["n"] in (EXAMPLES, 12)
    trained = json.loads((Path(own[0]["model"]) / "result.json").read_text())
    record_property(f"seconds to fine-tune {task}", trained["seconds"])
    assert trained["updates"] == UPDATES
    assert f"{task} (" in (folder / "runs/zero-shot/table.md").read_text()


def test_the_fine_tuned_models_keep_the_lineage(results):
    folder, _ = results
    lineage = AutoModelForMaskedLM.from_pretrained(folder / "primary").config.megamini["lineage"]
    for name in (*TRAINED, "libreoffice", "topic"):
        one = load_task_model(folder / "runs/tuned" / name / "seed-0", "cpu")
        assert one.model.config.megamini["lineage"] == lineage


@pytest.mark.all_combinations
def test_every_task_on_more_data_with_two_seeds(tmp_path):
    if not DATA.is_dir():
        pytest.skip(f"the real evaluation data are not here ({DATA})")
    entries = finetuned_and_evaluated(tmp_path, updates=20, examples=400, seeds=[0, 1])
    assert len(entries) == 2 * 2 * (len(EVALUATED) + 2)


def zero(tmp_path: Path, stage: int, precision: str) -> Path:
    write_texts(tmp_path / "texts", "en")
    primary = make_primary(tmp_path / "primary")
    recipe = finetune_recipe(primary, tmp_path)
    recipe["training"] |= {"precision": precision, "seeds": [0, 1]}
    launcher = ("deepspeed", "--num_gpus", "2", "--master_port", str(free_port()))
    launch("finetune", recipe, tmp_path, "--deepspeed_config", f"ds_configs/zero{stage}.json", deepspeed=launcher)
    return tmp_path / "runs/tuned"


def check_deepspeed(tmp_path: Path, stage: int, precision: str) -> None:
    """Two ranks leave ordinary checkpoints of the source's lineage behind, for each seed."""
    directory = zero(tmp_path, stage, precision)
    lineage = AutoModelForMaskedLM.from_pretrained(tmp_path / "primary").config.megamini["lineage"]
    for seed in (0, 1):
        one = load_task_model(directory / "topic" / f"seed-{seed}", "cpu")
        assert one.model.config.megamini["lineage"] == lineage
    assert [entry["seed"] for entry in json.loads((directory / "results.json").read_text())] == [0, 1]


def test_under_the_deepspeed_launcher(tmp_path):
    check_deepspeed(tmp_path, stage=3, precision="fp32")


def finetune_on_ranks(*arguments: str) -> None:
    sys.argv = ["launch/finetune.py", *arguments]
    runpy.run_path(str(ROOT / "launch/finetune.py"), run_name="__main__")


def test_ranks_of_another_version_end_in_a_line(tmp_path):
    write_texts(tmp_path / "texts", "en")
    path = tmp_path / "finetune.yaml"
    path.write_text(yaml.safe_dump(finetune_recipe(make_primary(tmp_path / "primary"), tmp_path)))
    arguments = [finetune_on_ranks, str(path), "--deepspeed_config", "ds_configs/zero1.json"]
    with Ranks(with_other_code_on_rank_1, arguments, 2, tmp_path / "logs") as running:
        assert set(running.wait()) == {2}, running.printed()
    assert re.search(r"rank 1 on .* has another code of megamini than rank 0 on .*: 1, and there 0", running.printed())
    assert not (tmp_path / "runs").exists()


@pytest.mark.all_combinations
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_under_the_deepspeed_launcher_everywhere(stage, precision, tmp_path):
    check_deepspeed(tmp_path, stage, precision)

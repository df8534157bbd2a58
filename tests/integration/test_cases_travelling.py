"""Runs travel: to another machine without their data, to another working directory, and into the next version."""

import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer

from megamini.training.checkpoints.checkpoint import newest_first
from megamini.training.checkpoints.manifest import MANIFEST, read_manifest, write_manifest
from tests.integration.adapting import Workshop, adapt, export
from tests.integration.cases import Case
from tests.integration.conftest import _PROSE, Lab
from tests.integration.launching import ROOT
from tests.integration.ranks import Ranks, last_update, pretrain

pytestmark = pytest.mark.launched

CASE = Case(stage=None, ranks=1, exits=(2,))
LONGER = "schedule.duration=24 updates"


class Elsewhere:
    """Another machine: a folder with a copy of the run, and nothing of what lay beside it."""

    def __init__(self, lab: Lab, folder: Path, **model: Any) -> None:
        self.folder, self.home = folder, folder / "home"
        self.data = Path(shutil.copytree(lab.data(), self.home / "data"))
        recipe = CASE.recipe(self.data, self.home / "runs")
        recipe["model"]["exits"] = list(CASE.exits)
        if model:
            recipe["model"] = {"exits": list(CASE.exits), "dropout": 0.0, **model}
        self.recipe = self.written(self.home / "recipe.yaml", recipe)
        self.command(pretrain, self.recipe)
        self.run = self.home / "runs" / str(CASE)

    def moved(self) -> Path:
        """The run alone, at another place; what it was made from is gone."""
        there = self.folder / "there"
        there.mkdir()
        self.run.rename(there / "run")
        shutil.rmtree(self.home)
        return there / "run"

    def command(self, target: Callable[..., None], *arguments: str, expected: int = 0) -> str:
        with Ranks(target, arguments, None, self.folder / "logs") as running:
            assert running.wait() == [expected], running.printed()
            return running.printed()

    @staticmethod
    def written(path: Path, values: dict[str, Any]) -> str:
        path.write_text(yaml.safe_dump(values))
        return str(path)


def test_cases_a_run_without_its_data(lab: Lab, tmp_path: Path) -> None:
    """Exported, learned over, and gone on with where the data are, under whatever name."""
    elsewhere = Elsewhere(lab, tmp_path)
    run = elsewhere.moved()
    elsewhere.command(export, str(run), str(tmp_path / "primary"))
    elsewhere.command(export, str(run), str(tmp_path / "mini"), "--exit", "2")
    own, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "primary", lab.data()))
    assert own("Bread and water.").input_ids == theirs("Bread and water.").input_ids
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "mini").config.num_hidden_layers == 2
    assert str(_PROSE.name) in (tmp_path / "primary/README.md").read_text(), "the card knows the text"

    shop = Workshop(lab, tmp_path / "shop")
    shop.folder.mkdir()
    recipe = shop.recipe("adapted", {"adaptation.source": str(run), "adaptation.exit": 2})
    elsewhere.command(adapt, recipe)
    assert (shop.folder / "adapted/packs/de/pack.json").is_file()

    data = shutil.copytree(lab.data(), tmp_path / "other/name")
    values = {**yaml.safe_load((run / "recipe.yaml").read_text()), "name": "run"}
    values["data"]["path"], values["training"]["runs"] = str(data), str(run.parent)
    printed = elsewhere.command(pretrain, elsewhere.written(tmp_path / "again.yaml", values), LONGER)
    assert "resuming from checkpoint step-00000020" in printed
    assert "changed recipe: schedule.duration: 20 updates -> 24 updates\n" in printed, "and nothing else"


def test_cases_a_run_without_the_checkpoint_it_started_from(lab: Lab, shop: Workshop, tmp_path: Path) -> None:
    source = shutil.copytree(shop.primary, tmp_path / "source")
    elsewhere = Elsewhere(lab, tmp_path, from_checkpoint=str(source))
    shutil.rmtree(source)
    run = elsewhere.moved()
    elsewhere.command(export, str(run), str(tmp_path / "primary"))
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "primary").config.num_hidden_layers == 3
    recipe = shop.recipe("over-a-moved-run", {"adaptation.source": str(run)})
    elsewhere.command(adapt, recipe)


def test_cases_paths_are_known_by_content(lab: Lab, shop: Workshop, tmp_path: Path) -> None:
    """The same recipe with relative paths, from another working directory, over another copy of the source."""
    source = shutil.copytree(shop.primary, tmp_path / "source")
    elsewhere = Elsewhere(lab, tmp_path, from_checkpoint=str(source))
    values = yaml.safe_load(Path(elsewhere.recipe).read_text())
    values["model"]["from_checkpoint"], values["data"]["path"] = "../source", "data"
    recipe = elsewhere.written(elsewhere.home / "relative.yaml", values)
    printed = elsewhere.command(pretrain_in, str(elsewhere.home), recipe, LONGER)
    assert "resuming from checkpoint step-00000020" in printed
    assert "changed recipe: schedule.duration: 20 updates -> 24 updates\n" in printed
    other = shop.exported("other-primary", source=shop.pretrained("roberta", seed=4))
    values["model"]["from_checkpoint"], values["data"]["path"] = str(other), str(elsewhere.data)
    recipe = elsewhere.written(elsewhere.home / "other.yaml", values)
    printed = elsewhere.command(pretrain, recipe, LONGER, expected=2)
    assert "error: the model that the run builds on: not the weights that" in printed


def test_cases_a_pack_is_known_by_content(shop: Workshop, tmp_path: Path) -> None:
    first = shop.adapted("first") / "packs/de"
    copy = shutil.copytree(first, tmp_path / "copy")
    start = {"adaptation.initialise": "pack", "adaptation.pack": str(first)}
    shop.command(adapt, shop.recipe("onward", start))
    recipe = shop.recipe("onward", {**start, "adaptation.pack": str(copy), "schedule.duration": "10 updates"})
    assert "resuming from checkpoint step-00000008" in shop.command(adapt, recipe)
    other = shop.adapted("second", training__seed=9) / "packs/de"
    recipe = shop.recipe("onward", {**start, "adaptation.pack": str(other)})
    with Ranks(adapt, [recipe], None, tmp_path / "logs") as running:
        assert running.wait() == [2]
        assert "adaptation.pack_sha256 is" in running.printed()


# --- earlier versions -------------------------------------------------------------------------------------------------


def as_of_an_earlier_version(run: Path) -> None:
    """Takes from a run what versions have added one after the other: options, fields of the state, files."""
    shutil.rmtree(run / "data")
    for checkpoint in newest_first(run / "checkpoints"):
        content = read_manifest(checkpoint)[0]
        for field in ("batches_left_out", "roll_backs", "recent_losses", "recipe", "changes", "plateau", "skipped"):
            del content["state"][field]
        for section, key in (("objective", "replace_with_random"), ("model", "bridge_layers"), ("training", "seed")):
            content["identity"][section].pop(key)
        del content["scaler"]
        (checkpoint / MANIFEST).unlink()
        write_manifest(checkpoint, {name: value for name, value in content.items() if name != "format"})
    path = run / "recipe.yaml"
    values = yaml.safe_load(path.read_text())
    del values["training"]["spike"], values["checkpoint"], values["objective"]["replace_with_random"]
    path.write_text(yaml.safe_dump(values))


def test_cases_a_run_of_an_earlier_version(lab: Lab, tmp_path: Path) -> None:
    elsewhere = Elsewhere(lab, tmp_path)
    values = yaml.safe_load(Path(elsewhere.recipe).read_text())
    values["training"]["seed"] = 0  # the default, which it is taken to have had
    recipe = elsewhere.written(tmp_path / "recipe.yaml", {**values, "name": "early"})
    elsewhere.command(pretrain, recipe)
    run = elsewhere.home / "runs/early"
    as_of_an_earlier_version(run)
    elsewhere.command(export, str(run), str(tmp_path / "primary"))
    printed = elsewhere.command(pretrain, recipe, "objective.replace_with_random=0.2", LONGER, expected=2)
    assert "error: objective.replace_with_random is 0.2, but" in printed and "was trained with 0.1" in printed
    assert "resuming from checkpoint step-00000020" in elsewhere.command(pretrain, recipe, LONGER)
    assert last_update(run) == 24
    assert (run / "data/tokenizer/tokenizer.json").is_file(), "from now on it travels"


def test_cases_a_run_of_a_later_version_is_one_line(lab: Lab, tmp_path: Path) -> None:
    elsewhere = Elsewhere(lab, tmp_path)
    checkpoint = newest_first(elsewhere.run / "checkpoints")[0]
    content = read_manifest(checkpoint)[0]
    content["state"]["from_the_future"] = 1
    write_manifest(checkpoint, {name: value for name, value in content.items() if name != "format"})
    printed = elsewhere.command(pretrain, elsewhere.recipe, LONGER, expected=2)
    (line,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert "'from_the_future'" in line and "newer" in line


# --- the home folder --------------------------------------------------------------------------------------------------


def test_cases_the_home_folder_in_every_command(lab: Lab, shop: Workshop, tmp_path: Path) -> None:
    home = tmp_path / "somebody"
    home.mkdir()
    shutil.copy(_PROSE, home / "text.txt")
    shutil.copytree(shop.primary, home / "source")
    recipe = CASE.recipe(Path("~/data"), Path("~/runs"))
    recipe["model"] = {"from_checkpoint": "~/source", "exits": [2], "dropout": 0.0}
    recipe["schedule"]["duration"] = "6 updates"
    Elsewhere.written(home / "recipe.yaml", recipe)
    run = f"~/runs/{CASE}"
    for target, arguments in (
        (prepare, ["--text", "~/text.txt", "--language", "en", "--tokenizer=~/source", "--block-length", "32",
                   "--validation-share", "0.2", "--out=~/data"]),
        (pretrain, ["~/recipe.yaml"]),
        (pretrain, ["~/recipe.yaml", "schedule.duration=7 updates", "training.runs=~/runs", "data.path=[~/data]"]),
        (export, [run, "~/export", "--exit", "2"]),
        (adapt, [shop.recipe("home", {"data.workers": 0}), f"adaptation.source={run}", "training.runs=~/runs",
                 "adaptation.primary=~/source", "adaptation.exit=null"]),
    ):  # fmt: skip
        with Ranks(at_home, [str(home), target, *arguments], None, tmp_path / "logs") as running:
            expected = [2] if "adaptation.primary=~/source" in arguments else [0]
            assert running.wait() == expected, running.printed()
    assert (
        "adaptation.primary" in running.printed() and f"{home}/source: has other token embeddings" in running.printed()
    )
    assert {"data", "runs", "export"} <= {path.name for path in home.iterdir()}
    assert not (ROOT / "~").exists()


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("travelling"))


# --- in the processes -------------------------------------------------------------------------------------------------


def pretrain_in(folder: str, *arguments: str) -> None:
    os.chdir(folder)
    pretrain(*arguments)


def at_home(home: str, target: Callable[..., None], *arguments: str) -> None:
    os.environ["HOME"] = home
    target(*arguments)


def prepare(*arguments: str) -> None:
    sys.argv = ["tools/prepare_data.py", *arguments]
    runpy.run_path(str(ROOT / "tools/prepare_data.py"), run_name="__main__")

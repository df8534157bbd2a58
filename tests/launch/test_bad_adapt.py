"""Bad input of launch/adapt.py and tools/export.py --pack ends with one line that names the culprit, and status 2."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import yaml

from megamini.data.preparation.prepare import Settings, prepare
from tests.launch.workplace import (
    PROSE,
    REMOVED,
    Workplace,
    changed,
    entry_point,
    run_in_process,
    scribble,
    the_line,
    truncate,
)

Cases = dict[str, tuple[Callable[["Bench"], list[str]], tuple[str, ...]]]

RECIPE = {
    "name": "small-de",
    "adaptation": {"source": "", "method": "mini"},
    "data": {"path": "", "workers": 0},
    "optimizer": {"learning_rate": 0.001},
    "schedule": {"duration": "2 updates", "warmup": "1 updates"},
    "training": {"global_batch": 4, "micro_batch": 4, "precision": "fp32", "runs": ""},
    "telemetry": {"every": 1, "peak_tflops": 1.0},
}


@pytest.fixture(scope="session")
def adapted(good: Path) -> Path:
    """The good folder, with German text of its own vocabulary, an exported primary and a language pack."""
    prepare([str(PROSE)], good / "de", Settings("de", 410, block_length=32, validation_share=0.2), processes=1)
    with mock.patch.object(sys, "argv", ["export.py", str(good / "runs/small"), str(good / "primary")]):
        entry_point("export").main()
    arguments = Bench(good, good).recipe()
    with mock.patch.object(sys, "argv", ["adapt.py", *arguments]):
        entry_point("adapt").main()
    return good


class Bench(Workplace):
    """A case's folder; sources, data and packs are those of `good` unless copied."""

    def __init__(self, folder: Path, good: Path) -> None:
        super().__init__(folder, good / "data", good / "runs")
        self.good = good

    def recipe(self, changes=None, *more: str) -> list[str]:
        values = json.loads(json.dumps(RECIPE))
        values["adaptation"]["source"] = str(self.good / "runs/small")
        values["data"]["path"] = str(self.good / "de")
        values["training"]["runs"] = str(self.folder / "runs")
        return self.file("recipe.yaml", yaml.safe_dump(changed(values, changes or {})), *more)

    def primary(self) -> Path:
        shutil.copytree(self.good / "primary", self.folder / "primary")
        return self.folder / "primary"

    def pack(self) -> Path:
        shutil.copytree(self.good / "runs/small-de/packs/de", self.folder / "pack")
        return self.folder / "pack"

    def from_folder(self, break_it: Callable[[Path], object]) -> list[str]:
        folder = self.primary()
        break_it(folder)
        return self.recipe({"adaptation.source": str(folder), "adaptation.method": "standard"})

    def from_pack(self, break_it: Callable[[Path], object]) -> list[str]:
        folder = self.pack()
        break_it(folder)
        return self.recipe({"adaptation.initialise": "pack", "adaptation.pack": str(folder)})

    def plugging(self, break_it: Callable[[Path], object]) -> list[str]:
        folder = self.pack()
        break_it(folder)
        return [str(self.good / "primary"), str(self.folder / "out"), "--pack", str(folder)]


def nothing(_: Path) -> None: ...


def change_json(name: str, **values) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


ADAPTS: Cases = {
    "unknown key": (lambda w: w.recipe({"adaptation.initialize": "random"}), ("initialize", "'initialise'")),
    "a recipe of pretraining": (lambda w: Workplace.recipe(w), ("a recipe of launch/pretrain.py",)),
    "unknown starting point": (lambda w: w.recipe({"adaptation.initialise": "wechsel"}), ("adaptation.initialise",)),
    "7e-4 is text": (lambda w: w.recipe({"optimizer.learning_rate": "7e-4"}), ("write 7.0e-4",)),
    "no section": (lambda w: w.recipe({"adaptation": REMOVED}), ("'adaptation' is missing",)),
    "word list without its kind": (
        lambda w: w.recipe({"adaptation.initialise": "overlap", "adaptation.lexicon": "x.tsv"}),
        ("adaptation.lexicon", "adaptation.initialise: lexicon or focus"),
    ),
    "kind without its word list": (
        lambda w: w.recipe({"adaptation.initialise": "lexicon"}),
        ("adaptation.initialise: lexicon needs adaptation.lexicon",),
    ),
    "word list of several languages": (
        lambda w: w.recipe({"adaptation.lexicon": "x.tsv", "data.path": ["data/de", "data/it"]}),
        ("adaptation.lexicon is of one language", "data.path"),
    ),
    "torn word list of focus": (
        lambda w: w.recipe({"adaptation.lexicon": w.file("l.tsv", "Haus house")[0]}),
        ("l.tsv", "line 1", "TAB"),
    ),
    "word list through deepfocus": (
        lambda w: w.recipe({"adaptation.lexicon": "x.tsv", "adaptation.focus_through": "deepfocus"}),
        ("adaptation.focus_through", "word list"),
    ),
    "parallel text without its kind": (
        lambda w: w.recipe({"adaptation.initialise": "overlap", "adaptation.parallel": ["x.de", "x.en"]}),
        ("adaptation.parallel goes with adaptation.initialise: focus",),
    ),
    "parallel text of one file": (lambda w: w.recipe({"adaptation.parallel": ["x.de"]}), ("adaptation.parallel",)),
    "parallel text of several languages": (
        lambda w: w.recipe({"adaptation.parallel": ["x.de", "x.en"], "data.path": ["data/de", "data/it"]}),
        ("adaptation.parallel is of one language", "data.path"),
    ),
    "parallel text through deepfocus": (
        lambda w: w.recipe({"adaptation.parallel": ["x.de", "x.en"], "adaptation.focus_through": "deepfocus"}),
        ("adaptation.focus_through", "parallel text"),
    ),
    "parallel text of unequal length": (
        lambda w: w.recipe({"adaptation.parallel": [w.file("l.de", "Haus")[0], w.file("l.en", "house\ntree")[0]]}),
        ("l.de", "ends before line 2"),
    ),
    "no such parallel text": (
        lambda w: w.recipe({"adaptation.parallel": ["gone.de", "gone.en"]}),
        ("gone.de", "two files whose lines say the same"),
    ),
    "no such word list": (
        lambda w: w.recipe({"adaptation.initialise": "lexicon", "adaptation.lexicon": "gone.tsv"}),
        ("gone.tsv", "word list"),
    ),
    "torn word list": (
        lambda w: w.recipe(
            {"adaptation.initialise": "lexicon", "adaptation.lexicon": w.file("l.tsv", "Haus house")[0]}
        ),
        ("l.tsv", "line 1", "TAB"),
    ),
    "exit of standard": (
        lambda w: w.recipe({"adaptation.method": "standard", "adaptation.exit": 2}),
        ("adaptation.exit goes with",),
    ),
    "plateau without validation": (
        lambda w: w.recipe({"adaptation.stop": {"plateau": {"patience": 2}}}),
        ("adaptation.stop.plateau", "telemetry.validate_every"),
    ),
    "mask share with stages, and roll-backs": (
        lambda w: w.recipe(
            {
                "objective.mask_share": [{"share": 0.3, "until": "1 updates"}, {"share": 0.1}],
                "training.spike": {"most_roll_backs": 1},
            }
        ),
        ("objective.mask_share: stages do not go with training.spike.most_roll_backs",),
    ),
    "mask share whose last stage is never reached": (
        lambda w: w.recipe({"objective.mask_share": [{"share": 0.3, "until": "2 updates"}, {"share": 0.1}]}),
        ("objective.mask_share", "share 0.3 ends after 2 updates, and the run after 2"),
    ),
    "too few FLOPs": (lambda w: w.recipe({"adaptation.stop": {"flops": 10}}), ("adaptation.stop.flops", "one update")),
    "no such source": (lambda w: w.recipe({"adaptation.source": "./gone"}), ("adaptation.source", "no such folder")),
    "no such exit": (lambda w: w.recipe({"adaptation.exit": 1}), ("adaptation.exit 1", "after layers: 2")),
    "source is a pack": (
        lambda w: w.recipe({"adaptation.source": str(w.pack())}),
        ("adaptation.source", "config.json"),
    ),
    "source is a run of its own kind": (
        lambda w: w.recipe({"adaptation.source": str(w.good / "runs/small-de")}),
        ("small-de", "a recipe of launch/adapt.py"),
    ),
    "source without checkpoints": (
        lambda w: (run := w.run(), shutil.rmtree(run / "checkpoints"), w.recipe({"adaptation.source": str(run)}))[2],
        ("no complete checkpoint",),
    ),
    "a whole model as mini": (
        lambda w: w.recipe({"adaptation.source": str(w.primary())}),
        ("adaptation.method mini", "tools/export.py --exit"),
    ),
    "torn weights": (
        lambda w: w.from_folder(lambda f: truncate(f / "model.safetensors")),
        ("adaptation.source", "cannot be loaded"),
    ),
    "torn configuration": (lambda w: w.from_folder(lambda f: truncate(f / "config.json")), ("adaptation.source",)),
    "no tokenizer": (
        lambda w: w.from_folder(lambda f: [p.unlink() for p in f.glob("tokenizer*")]),
        ("adaptation.source", "tokenizer"),
    ),
    "tokenizer of another class": (
        lambda w: w.from_folder(lambda f: (f / "tokenizer_config.json").unlink()),
        ("adaptation.source", "no tokenizer_config.json"),
    ),
    "not tied": (
        lambda w: w.from_folder(change_json("config.json", tie_word_embeddings=False)),
        ("adaptation.source", "not tied"),
    ),
    "another family": (
        lambda w: w.from_folder(change_json("config.json", model_type="gpt2")),
        ("adaptation.source", "gpt2"),
    ),
    "too few positions": (
        lambda w: w.recipe({"data.path": str(long_blocks(w))}),
        ("positions are too few for blocks of 64",),
    ),
    "another primary": (
        lambda w: w.recipe({"adaptation.primary": str(retrained(w))}),
        ("adaptation.primary", "other token embeddings"),
    ),
    "no data": (lambda w: w.recipe({"data.path": "./gone"}), ("./gone", "tools/prepare_data.py")),
    "data that are a file": (
        lambda w: w.recipe({"data.path": str(w.good / "de/manifest.json")}),
        ("manifest.json", "a file; give a data directory"),
    ),
    "no language at all": (lambda w: w.recipe({"data.path": []}), ("data.path",)),
    "one language twice": (
        lambda w: w.recipe({"data.path": [str(w.good / "de"), str(w.good / "de")]}),
        ("data.path", "the same language"),
    ),
    "blocks of two lengths": (
        lambda w: w.recipe({"data.path": [str(w.good / "de"), str(long_blocks(w))]}),
        ("data.path", "one length"),
    ),
    "half precision": (lambda w: w.recipe({"training.precision": "fp16"}), ("training.precision", "bf16 or fp32")),
    "torn pack": (
        lambda w: w.from_pack(lambda f: truncate(f / "embeddings.safetensors")),
        ("embeddings.safetensors", "checksum"),
    ),
    "pack of another model": (
        lambda w: w.from_pack(change_json("pack.json", lineage={"embeddings_sha256": "0", "tokenizer_sha256": "0"})),
        ("adaptation.pack", "other token embeddings"),
    ),
    "pack of other text": (
        lambda w: w.recipe(
            {
                "adaptation.initialise": "pack",
                "adaptation.pack": str(w.pack()),
                "data.path": str(w.good / "data"),
            }
        ),
        ("adaptation.pack", "another tokenizer"),
    ),
    "a file in the way": (
        lambda w: w.recipe({"training.runs": w.file("taken", "")[0]}),
        ("taken", "choose another folder"),
    ),
    "changed on the way": (
        lambda w: (
            shutil.copytree(w.good / "runs/small-de", w.folder / "runs/small-de"),
            w.recipe({"training.seed": 9}),
        )[1],
        ("training.seed is 9", "was trained with 0", "another name"),
    ),
}

EXPORTS: Cases = {
    "torn pack": (lambda w: w.plugging(lambda f: truncate(f / "embeddings.safetensors")), ("checksum",)),
    "scribbled pack": (lambda w: w.plugging(lambda f: scribble(f / "embeddings.safetensors")), ("checksum",)),
    "pack without description": (lambda w: w.plugging(lambda f: (f / "pack.json").unlink()), ("pack.json",)),
    "torn description": (lambda w: w.plugging(lambda f: truncate(f / "pack.json")), ("pack.json",)),
    "pack without tokenizer": (
        lambda w: w.plugging(lambda f: [p.unlink() for p in f.glob("tokenizer*")]),
        ("tokenizer",),
    ),
    "no such pack": (lambda w: [str(w.good / "primary"), str(w.folder / "o"), "--pack", "gone"], ("gone", "pack")),
    "pack of another model": (
        lambda w: w.plugging(change_json("pack.json", lineage={"embeddings_sha256": "0", "tokenizer_sha256": "0"})),
        ("pack 'de'", "other token embeddings"),
    ),
    "neither run nor checkpoint": (lambda w: [w.folder_named("empty"), str(w.folder / "o")], ("empty", "neither")),
    "a checkpoint without a pack": (
        lambda w: [str(w.good / "primary"), str(w.folder / "o")],
        ("ordinary checkpoint already", "--pack"),
    ),
    "exit of a folder": (lambda w: [*w.plugging(nothing), "--exit", "2"], ("--exit", "not a run directory")),
    "adaptation run": (
        lambda w: [str(w.good / "runs/small-de"), str(w.folder / "o")],
        ("small-de", "a recipe of launch/adapt.py"),
    ),
}


def long_blocks(w: Bench) -> Path:
    out = w.folder / "long"
    prepare([str(PROSE)], out, Settings("it", 410, block_length=64, validation_share=0.2), processes=1)
    return out


def retrained(w: Bench) -> Path:
    """The primary with another token matrix."""
    from safetensors.torch import load_file, save_file

    path = w.primary() / "model.safetensors"
    tensors = load_file(path)
    tensors["roberta.embeddings.word_embeddings.weight"] *= 1.5
    save_file(tensors, path, metadata={"format": "pt"})
    return path.parent


CASES = [
    pytest.param(entry, *case, id=f"{entry}-{name}")
    for entry, cases in {"adapt": ADAPTS, "export": EXPORTS}.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize(("entry", "break_it", "words"), CASES)
def test_bad_input_is_one_line(entry, break_it, words, adapted, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    status, err = run_in_process(entry, break_it(Bench(tmp_path, adapted)), capfd)
    line = the_line(err)
    assert status == 2
    assert not [word for word in words if word not in line], line
    assert not (tmp_path / "out").exists()


MINIPOST: Cases = {
    "bridge without a method": (lambda w: w.recipe({"model.bridge_layers": 1}), ("model.bridge_layers", "minipost")),
    "minipost without a bridge": (lambda w: w.recipe({"objective.method": "minipost"}), ("model.bridge_layers",)),
    "minipost from scratch": (
        lambda w: w.recipe({"objective.method": "minipost", "model.bridge_layers": 1}),
        ("minipost builds on model.from_checkpoint",),
    ),
    "a bridge above the top": (
        lambda w: w.recipe(
            {
                "objective.method": "minipost",
                "model": {"from_checkpoint": str(w._good_data.parent / "primary"), "exits": [2], "bridge_layers": 2},
            }
        ),
        ("model.bridge_layers", "more than the body's 3"),
    ),
    "forgetting what is frozen": (
        lambda w: w.recipe(
            {
                "objective": {"method": "head", "forgetting": {"every": "1 updates", "none_in_last": "1 updates"}},
                "model": {"from_checkpoint": "x"},
            }
        ),
        ("objective.forgetting", "frozen"),
    ),
    "a second head": (
        lambda w: w.recipe(
            {"objective.method": "head", "model": {"from_checkpoint": str(w._good_data.parent / "primary")}}
        ),
        ("has a masked-LM head of its own",),
    ),
    "a run whose source was changed": (lambda w: bridged_then_changed(w), ("not the weights",)),
}


def bridged_then_changed(w: Workplace) -> list[str]:
    shutil.copytree(w._good_data.parent / "primary", w.folder / "primary")
    arguments = w.recipe(
        {
            "objective.method": "minipost",
            "model": {"from_checkpoint": str(w.folder / "primary"), "exits": [1], "bridge_layers": 1},
        }
    )
    with mock.patch.object(sys, "argv", ["pretrain.py", *arguments]):
        entry_point("pretrain").main()
    path = w.folder / "primary/model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    return arguments


@pytest.mark.parametrize(("break_it", "words"), MINIPOST.values(), ids=MINIPOST)
def test_bad_minipost_is_one_line(break_it, words, adapted, workplace, capfd):
    status, err = run_in_process("pretrain", break_it(workplace), capfd)
    line = the_line(err)
    assert status == 2
    assert not [word for word in words if word not in line], line

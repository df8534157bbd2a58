"""Bad input of any kind ends with one line that names the file, key or row and what to do, and status 2."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from megamini.data.tokenizer import load_tokenizer
from tests.launch.workplace import (
    PROSE,
    REMOVED,
    Workplace,
    edit_manifest,
    entry_point,
    run_in_process,
    scribble,
    the_line,
    truncate,
)

# What is wrong -> (function that breaks it and returns the arguments, words that the line must hold).
Cases = dict[str, tuple[Callable[[Workplace], list[str]], tuple[str, ...]]]
HERE = "recipe.yaml"


def model_config(key: str, value: object) -> Callable[[Workplace], list[str]]:
    return lambda w: w.recipe({f"model.config.{key}": value})


RECIPES: Cases = {
    "unknown section": (
        lambda w: w.recipe({"optimiser": {"learning_rate": 1e-3}}),
        (HERE, "unknown key 'optimiser'", "'optimizer'"),
    ),
    "unknown key": (
        lambda w: w.recipe({"optimizer.learing_rate": 1e-3}),
        (HERE, "unknown key 'optimizer.learing_rate'", "'learning_rate'"),
    ),
    "unknown key, three deep": (
        lambda w: w.recipe({"objective.forgetting": {"evry": "2 updates", "none_in_last": "1 updates"}}),
        (HERE, "unknown key 'objective.forgetting.evry'", "did you mean 'every'"),
    ),
    "missing section": (lambda w: w.recipe({"data": REMOVED}), (HERE, "'data' is missing")),
    "missing key": (lambda w: w.recipe({"schedule.warmup": REMOVED}), (HERE, "'schedule.warmup' is missing")),
    "section without keys": (lambda w: w.recipe({"schedule": None}), (HERE, "schedule")),
    "7e-4 is text": (
        lambda w: w.recipe_text("learning_rate: 0.001", "learning_rate: 7e-4"),
        (HERE, "optimizer.learning_rate", "'7e-4' as text", "write 7.0e-4"),
    ),
    "language no is false": (
        lambda w: w.recipe_text("name: small", "name: no"),
        (HERE, "name", "put the word in quot"),
    ),
    "number as text": (
        lambda w: w.recipe({"training.global_batch": "four"}),
        (HERE, "training.global_batch", "'four'", "integer"),
    ),
    "infinite rate": (
        lambda w: w.recipe({"optimizer.learning_rate": float("inf")}),
        ("optimizer.learning_rate", "finite"),
    ),
    "rate that is no number": (
        lambda w: w.recipe({"optimizer.learning_rate": float("nan")}),
        ("optimizer.learning_rate", "nan"),
    ),
    "impossible beta": (lambda w: w.recipe({"optimizer.betas": [0.9, 1.5]}), (HERE, "optimizer.betas", "1.5")),
    "seed beyond 64 bits": (lambda w: w.recipe({"training.seed": 2**70}), (HERE, "training.seed", "less than")),
    "torn": (lambda w: w.recipe_text("exits:\n  - 2", "exits: [2"), (HERE, "line ", "not valid YAML")),
    "tab": (lambda w: w.recipe_text("  path:", "\tpath:"), (HERE, "line ", "not valid YAML")),
    "repeated key": (
        lambda w: w.recipe_text("name: small", "name: small\nname: big"),
        (HERE, "line ", "'name'", "twice"),
    ),
    "binary noise": (lambda w: w.file(HERE, os.urandom(64) + b"\xff"), (HERE, "not UTF-8", "a recipe is a YAML file")),
    "control characters": (lambda w: w.file(HERE, "name: \x00\x01"), (HERE, "not valid YAML")),
    "tag that runs code": (
        lambda w: w.recipe_text("small", "!!python/object/apply:os.abort []"),
        (HERE, "line ", "YAML"),
    ),
    "empty": (lambda w: w.file(HERE, ""), (HERE, "not a recipe", "expected sections")),
    "a list": (lambda w: w.file(HERE, "- model\n- data\n"), (HERE, "not a recipe", "found list")),
    "no file": (lambda w: [str(w.folder / "gone.yaml")], ("gone.yaml", "give the path of a recipe")),
    "a folder": (lambda w: [w.folder_named("recipes")], ("recipes", "give the path of a recipe")),
    "unknown family": (
        lambda w: w.recipe({"model.family": "robberta"}),
        (
            HERE,
            "model.family",
            "'roberta', 'xlm-roberta', 'xlm-roberta-xl', 'bert', 'modernbert'",
            "'llama', 'qwen2', 'qwen3', 'gemma' or 'gpt_neox'",
            "'robberta'",
        ),
    ),
    "unknown method": (
        lambda w: w.recipe({"objective.method": "minojoint"}),
        (HERE, "objective.method", "'lora' or 'embeddings'", "'minojoint'"),
    ),
    "no model": (lambda w: w.recipe({"model.family": REMOVED}), ("model.family", "model.from_checkpoint")),
    "two models": (lambda w: w.recipe({"model.from_checkpoint": "x"}), ("model.family", "model.from_checkpoint")),
    "unknown key of the body": (
        model_config("hiden_size", 16),
        ("model.config.hiden_size", "did you mean 'hidden_size'"),
    ),
    "key that the data decides": (model_config("vocab_size", 500), ("model.config.vocab_size", "leave it out")),
    "heads that do not divide": (
        model_config("num_attention_heads", 3),
        ("model.config.hidden_size", "no multiple of 3 heads"),
    ),
    "no heads": (model_config("num_attention_heads", 0), ("model.config.num_attention_heads", "at least 1")),
    "no layers": (model_config("num_hidden_layers", 0), ("model.config.num_hidden_layers", "at least 1")),
    "negative layers": (model_config("num_hidden_layers", -2), ("model.config.num_hidden_layers", "at least 1")),
    "negative width": (model_config("hidden_size", -16), ("model.config.hidden_size", "at least 1")),
    "width as text": (model_config("hidden_size", "16"), ("model.config", "hidden_size", "'16'")),
    "unknown activation": (model_config("hidden_act", "gleu"), ("model.config.hidden_act", "did you mean 'gelu'")),
    "too few positions": (
        model_config("max_position_embeddings", 20),
        ("model.config.max_position_embeddings", "34 are needed"),
    ),
    "kernel that is not installed": (
        lambda w: w.recipe({"model.attention": "flash_attention_2", "training.precision": "bf16"}),
        ("model.attention", "flash_attention_2", "sdpa"),
    ),
    "exit above the top": (lambda w: w.recipe({"model.exits": [7]}), ("model.exits", "layer 7", "3 layers")),
    "exit at the top, dry run": (
        lambda w: w.recipe({"model.exits": [3]}, "--dry-run"),
        ("model.exits", "layer 3", "3 layers"),
    ),
    "exits that fall": (lambda w: w.recipe({"model.exits": [2, 1]}), (HERE, "model.exits", "must rise")),
    "exits without minijoint": (
        lambda w: w.recipe({"objective.method": "mlm"}),
        (HERE, "objective.method", "model.exits"),
    ),
    "too many weights": (
        lambda w: w.recipe({"objective.head_weights": [1, 1, 1]}),
        (HERE, "objective.head_weights", "needs 2 positive numbers"),
    ),
    "duration without unit": (
        lambda w: w.recipe({"schedule.duration": 100}),
        (HERE, "schedule.duration", "write for example '6000 updates'"),
    ),
    "no updates": (lambda w: w.recipe({"schedule.duration": "0 updates"}), ("schedule.duration", "at least 1 update")),
    "warm-up longer than the run": (
        lambda w: w.recipe({"schedule.warmup": "9 updates"}),
        ("schedule.warmup", "9 updates", "2 updates"),
    ),
    "mask share whose last stage is never reached": (
        lambda w: w.recipe({"objective.mask_share": [{"share": 0.3, "until": "2 updates"}, {"share": 0.1}]}),
        ("objective.mask_share", "share 0.3 ends after 2 updates, and the run after 2"),
    ),
    "mask share with an empty stage, dry run": (
        lambda w: w.recipe(
            {
                "objective.mask_share": [
                    {"share": 0.3, "until": "1 updates"},
                    {"share": 0.2, "until": "128 tokens"},
                    {"share": 0.1},
                ]
            },
            "--dry-run",
        ),
        ("objective.mask_share", "share 0.2 until 128 tokens is empty"),
    ),
    "mask share with a mistyped key": (
        lambda w: w.recipe({"objective.mask_share": [{"share": 0.3, "untill": "1 updates"}, {"share": 0.1}]}),
        (HERE, "unknown key 'objective.mask_share.0.untill'", "did you mean 'until'"),
    ),
    "ranks that do not divide the batch": (
        lambda w: w.recipe(None, "--dry-run"),
        ("training.global_batch", "3 ranks", "3 or 6", "2 or 4 ranks"),
    ),
    "fp16 without DeepSpeed": (
        lambda w: w.recipe({"training.precision": "fp16"}),
        ("training.precision", "fp16", "use bf16 or fp32"),
    ),
    "other recipe in the run's folder": (
        lambda w: (w.run(), w.recipe({"training.seed": 5}))[1],
        ("training.seed is 5", "give the run another name"),
    ),
    "other optimizer in the run's folder": (
        lambda w: (w.run(), w.recipe({"optimizer.name": "muon"}))[1],
        ("optimizer.name is muon", "was trained with adamw", "give the run another name"),
    ),
    "settings of Muon without it": (
        lambda w: w.recipe({"optimizer.muon": {"momentum": 0.9}}),
        (HERE, "optimizer.muon goes with optimizer.name: muon"),
    ),
    "folder in use without resume": (
        lambda w: (w.run(), w.recipe({"checkpoint.resume": False}))[1],
        ("small", "checkpoint.resume", "another name"),
    ),
    "a file where runs go": (
        lambda w: w.recipe({"training.runs": w.file("taken", "")[0]}),
        ("training.runs", "taken", "choose another folder"),
    ),
}

COMMANDS: Cases = {
    "unknown option": (lambda w: w.recipe(None, "--dryrun"), ("--dryrun", "did you mean '--dry-run'")),
    "option without value": (lambda w: w.recipe(None, "--deepspeed_config"), ("--deepspeed_config", "--help")),
    "override without =": (lambda w: w.recipe(None, "training.seed"), ("'training.seed'", "write section.key=value")),
    "override without key": (lambda w: w.recipe(None, "=3"), ("'=3'", "write section.key=value")),
    "override of an unknown section": (
        lambda w: w.recipe(None, "trainning.seed=3"),
        ("unknown key 'trainning'", "did you mean 'training'"),
    ),
    "override of an unknown key": (
        lambda w: w.recipe(None, "training.sed=3"),
        ("unknown key 'training.sed'", "did you mean 'seed'"),
    ),
    "override inside a value": (lambda w: w.recipe(None, "name.first=3"), ("name.first=3", "'name' has no keys")),
    "override of a whole section": (lambda w: w.recipe(None, "training=3"), ("training", "not 3")),
    "override that is no YAML": (lambda w: w.recipe(None, "model.exits=[2"), ("model.exits=[2", "not valid YAML")),
    "empty override": (lambda w: w.recipe(None, "training.seed="), ("training.seed", "not None")),
}


def from_checkpoint(folder: str) -> dict[str, object]:
    return {"model.family": REMOVED, "model.config": REMOVED, "model.from_checkpoint": folder}


def checkpoint_with(w: Workplace, **config: object) -> list[str]:
    w.file("body/config.json", json.dumps(config))
    return w.recipe(from_checkpoint(str(w.folder / "body")))


CHECKPOINTS: Cases = {
    "no such folder": (
        lambda w: w.recipe(from_checkpoint(str(w.folder / "gone"))),
        ("model.from_checkpoint", "gone", "no such folder"),
    ),
    "no such folder, dry run": (
        lambda w: w.recipe(from_checkpoint("./gone"), "--dry-run"),
        ("model.from_checkpoint", "./gone", "no such folder"),
    ),
    "folder without config": (
        lambda w: w.recipe(from_checkpoint(w.folder_named("body"))),
        ("model.from_checkpoint", "body", "config.json"),
    ),
    "torn config": (
        lambda w: (
            w.file("body/config.json", '{"model_type": "rob'),
            w.recipe(from_checkpoint(str(w.folder / "body"))),
        )[1],
        ("model.from_checkpoint", "body", "config.json"),
    ),
    "other vocabulary": (
        lambda w: checkpoint_with(w, model_type="roberta", vocab_size=999),
        ("model.from_checkpoint", "999", "400", "--tokenizer"),
    ),
    "not an encoder": (
        lambda w: checkpoint_with(w, model_type="gpt2", vocab_size=400),
        ("model.from_checkpoint", "'gpt2'", "roberta, xlm-roberta"),
    ),
    "no weights": (
        lambda w: checkpoint_with(w, model_type="roberta", vocab_size=400, max_position_embeddings=40),
        ("model.from_checkpoint", "body", "safetensors"),
    ),
    "torn weights": (
        lambda w: (
            w.file("body/model.safetensors", os.urandom(100)),
            checkpoint_with(w, model_type="roberta", vocab_size=400, max_position_embeddings=40),
        )[1],
        ("model.from_checkpoint", "body", "cannot be loaded"),
    ),
}

ZERO = "zero_optimization"
DEEPSPEED: Cases = {
    "no file": (lambda w: w.recipe(None, "--deepspeed_config", "gone.json"), ("gone.json", "ds_configs/")),
    "a folder": (lambda w: w.recipe(None, "--deepspeed_config", w.folder_named("x.json")), ("x.json", "ds_configs/")),
    "torn": (lambda w: w.json('{"zero_optimization": {"sta'), ("deepspeed.json", "line 1", "not valid JSON")),
    "binary noise": (lambda w: w.json(b"\xff\xfe\x00"), ("deepspeed.json", "not UTF-8")),
    "empty": (lambda w: w.json(""), ("deepspeed.json", "not valid JSON")),
    "a list": (lambda w: w.json([ZERO]), ("deepspeed.json", "expected a JSON object", "list")),
    "unknown key": (
        lambda w: w.json({"zero_optimisation": {}}),
        ("deepspeed.json", "'zero_optimisation'", f"'{ZERO}'"),
    ),
    "training key": (
        lambda w: w.json({"train_batch_size": 4}),
        ("deepspeed.json", "'train_batch_size'", "set training.global_batch"),
    ),
    "optimizer": (lambda w: w.json({"optimizer": {"type": "Adam"}}), ("'optimizer' belongs to the recipe",)),
    "repeated key": (
        lambda w: w.json('{"data_types": {}, "data_types": {}}'),
        ("deepspeed.json", "'data_types' appears twice"),
    ),
    "section as a number": (lambda w: w.json({ZERO: 2}), ("deepspeed.json", ZERO, "expected an object")),
    "unknown key of ZeRO": (
        lambda w: w.json({ZERO: {"stage": 2, "overlap_com": True}}),
        ("deepspeed.json", f"{ZERO}.overlap_com", "did you mean 'overlap_comm'"),
    ),
    "unknown key of ZeRO, dry run": (
        lambda w: [*w.json({ZERO: {"stag": 2}}), "--dry-run"],
        ("deepspeed.json", f"{ZERO}.stag", "did you mean 'stage'"),
    ),
    "ZeRO stage 4": (lambda w: w.json({ZERO: {"stage": 4}}), ("deepspeed.json", f"{ZERO}.stage", "not 4")),
    "stage as text": (lambda w: w.json({ZERO: {"stage": "two"}}), ("deepspeed.json", f"{ZERO}.stage", "'two'")),
    "offload to nowhere": (
        lambda w: w.json({ZERO: {"stage": 2, "offload_optimizer": {"device": "cpuu"}}}),
        ("deepspeed.json", f"{ZERO}.offload_optimizer.device", "'cpuu'"),
    ),
    "fp16 on a CPU": (
        lambda w: w.json({ZERO: {"stage": 2}}, {"training.precision": "fp16"}),
        ("training.precision", "fp16", "use bf16 or fp32"),
    ),
    "bf16 at stage 0": (
        lambda w: w.json({ZERO: {"stage": 0}}, {"training.precision": "bf16"}),
        ("training.precision", "bf16", "ds_configs/zero1.json"),
    ),
    "bf16 at stage 0, dry run": (
        lambda w: [*w.json({}, {"training.precision": "bf16"}), "--dry-run"],
        ("training.precision", "bf16", "ds_configs/zero1.json"),
    ),
    "unknown data type": (
        lambda w: w.json({"communication_data_type": "fp17"}),
        ("deepspeed.json", "communication_data_type", "fp17", "fp32"),
    ),
}


def data_with(break_it: Callable[[Path], object], **changes: object) -> Callable[[Workplace], list[str]]:
    def broken(w: Workplace) -> list[str]:
        break_it(w.data())
        return w.recipe(changes)

    return broken


def few_maskable(data: Path) -> None:
    splits = json.loads((data / "manifest.json").read_text())["splits"]
    splits["train"]["min_maskable"] = 3
    edit_manifest(data, splits=splits)


def other_tokenizer(data: Path) -> None:
    text = (data / "tokenizer.json").read_text()
    piece = next(piece for piece in load_tokenizer(data).get_vocab() if piece.isalpha() and len(piece) == 2)
    (data / "tokenizer.json").write_text(text.replace(f'"{piece}"', f'"{piece}x"'))


AGAIN = "prepare_data.py"
DATA: Cases = {
    "no folder": (lambda w: w.recipe({"data.path": str(w.folder / "gone")}), ("gone", AGAIN)),
    "not a data folder": (lambda w: w.recipe({"data.path": w.folder_named("text")}), ("text", "manifest.json", AGAIN)),
    "torn manifest": (data_with(lambda d: truncate(d / "manifest.json")), ("manifest.json", "not valid JSON", AGAIN)),
    "edited manifest": (
        data_with(
            lambda d: (d / "manifest.json").write_text((d / "manifest.json").read_text().replace('"en"', '"de"', 1))
        ),
        ("manifest.json", "fingerprint", "make the data again"),
    ),
    "manifest of another format": (data_with(lambda d: edit_manifest(d, format=9)), ("manifest.json", "format", AGAIN)),
    "truncated shard": (
        data_with(lambda d: truncate(d / "train/00000.arrow")),
        ("train/00000.arrow", "truncated", "make the data again"),
    ),
    "missing shard": (data_with(lambda d: (d / "train/00000.arrow").unlink()), ("train/00000.arrow", "missing", AGAIN)),
    "missing validation": (
        data_with(lambda d: shutil.rmtree(d / "validation")),
        ("validation/00000.arrow", "missing", AGAIN),
    ),
    "overwritten shard": (
        data_with(lambda d: scribble(d / "train/00000.arrow")),
        ("train/00000.arrow", "not a shard of blocks", "make the data again"),
    ),
    "overwritten shard, met by a worker": (
        data_with(lambda d: scribble(d / "train/00000.arrow"), **{"data.workers": 1}),
        ("train/00000.arrow", "not a shard of blocks", "make the data again"),
    ),
    "other tokenizer": (data_with(other_tokenizer), ("data.path", "tokenizer", "prepare the data again")),
    "no tokenizer": (
        data_with(lambda d: (d / "tokenizer.json").unlink()),
        ("data", "no tokenizer can be loaded", AGAIN),
    ),
    "torn tokenizer": (data_with(lambda d: truncate(d / "tokenizer.json")), ("data", "no tokenizer can be loaded")),
    "no counts": (
        data_with(lambda d: (d / "unigram_counts.npy").unlink()),
        ("unigram_counts.npy", "prepare the data again"),
    ),
    "torn counts": (
        data_with(lambda d: truncate(d / "unigram_counts.npy")),
        ("unigram_counts.npy", "prepare the data again"),
    ),
    "empty counts": (
        data_with(lambda d: (d / "unigram_counts.npy").write_bytes(b"")),
        ("unigram_counts.npy", "prepare the data again"),
    ),
    "counts that are a zip": (
        data_with(lambda d: np.savez((d / "unigram_counts.npy").open("wb"), np.zeros(3))),
        ("unigram_counts.npy", "prepare the data again"),
    ),
    "more to mask than there is": (
        data_with(few_maskable, **{"objective.mask_share": 0.4}),
        ("objective.mask_share", "only 3", "lower the share"),
    ),
    "more to mask in one stage than there is": (
        data_with(few_maskable, **{"objective.mask_share": [{"share": 0.4, "until": "1 updates"}, {"share": 0.05}]}),
        ("objective.mask_share", "12 positions", "only 3", "lower the share"),
    ),
}


def exported(break_it: Callable[[Path], object], *options: str) -> Callable[[Workplace], list[str]]:
    """tools/export.py on a broken copy of the run."""

    def broken(w: Workplace) -> list[str]:
        run = w.run()
        break_it(run)
        return [str(run), str(w.folder / "out"), *options]

    return broken


def nothing(run: Path) -> None: ...


def change_recipe(key: str, value: object) -> Callable[[Path], None]:
    """Edit one top-level section's key in the recipe that a run keeps."""
    section, name = key.split(".")

    def change(run: Path) -> None:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        recipe[section][name] = value
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    return change


def each_weights(run: Path) -> list[Path]:
    return list(run.glob("checkpoints/*/*.safetensors"))


EXPORTS: Cases = {
    "no arguments": (lambda w: [], ("RUN_OR_CHECKPOINT", "--help")),
    "no such run": (lambda w: [str(w.folder / "gone"), "out"], ("gone", "recipe.yaml")),
    "not a run": (lambda w: [w.folder_named("x"), "out"], ("x", "neither a run directory nor a checkpoint folder")),
    "exit is no number": (exported(nothing, "--exit", "two"), ("--exit", "'two'")),
    "no exit there": (exported(nothing, "--exit", "1"), ("--exit 1", "exits are after layers: 2")),
    "exit above the top": (exported(nothing, "--exit", "9"), ("--exit 9", "exits are after layers: 2")),
    "negative exit": (exported(nothing, "--exit=-1"), ("--exit -1", "exits are after layers: 2")),
    "unknown option": (exported(nothing, "--exits", "2"), ("--exits", "did you mean '--exit'")),
    "torn recipe": (exported(lambda r: truncate(r / HERE)), (HERE,)),
    "no checkpoints": (exported(lambda r: shutil.rmtree(r / "checkpoints")), ("checkpoints", "no complete checkpoint")),
    "torn weights everywhere": (
        exported(lambda r: [truncate(path) for path in each_weights(r)]),
        ("no complete checkpoint", "step-00000002", "bytes instead of"),
    ),
    "torn manifests everywhere": (
        exported(lambda r: [truncate(path) for path in r.glob("checkpoints/*/manifest.json")]),
        ("no complete checkpoint", "step-00000002", "manifest.json"),
    ),
    "a torn checkpoint": (
        lambda w: (
            run := w.run(),
            scribble(run / "checkpoints/step-00000001/state-00000.safetensors"),
            [str(run / "checkpoints/step-00000001"), str(w.folder / "out")],
        )[2],
        ("step-00000001", "not a complete checkpoint", "state-00000.safetensors", "checksum"),
    ),
    "a missing checkpoint": (
        lambda w: [str(w.run() / "checkpoints/step-00000009"), str(w.folder / "out")],
        ("step-00000009", "not a complete checkpoint"),
    ),
    "recipe of another model": (
        exported(change_recipe("model.exits", [1])),
        ("step-00000002", "was trained with [2]"),
    ),
    "data are gone, of a run of an earlier version": (
        exported(lambda run: (shutil.rmtree(run / "data"), change_recipe("data.path", "/gone")(run))),
        ("/gone", "manifest.json", AGAIN),
    ),
    "its own manifest is gone": (
        exported(lambda run: (run / "data/0/manifest.json").unlink()),
        ("small/data/0", "manifest.json"),
    ),
    "folder exists": (lambda w: [str(w.run()), w.folder_named("out")], ("out", "exists already", "another folder")),
    "a file in the way": (
        lambda w: [str(w.run()), w.file("taken", "")[0] + "/out"],
        ("taken/out", "cannot be written", "choose another folder"),
    ),
}


def reported(break_it: Callable[[Path], object]) -> Callable[[Workplace], list[str]]:
    """tools/report.py on a broken copy of the run."""

    def broken(w: Workplace) -> list[str]:
        run = w.run()
        break_it(run)
        return [str(run), "--out", str(w.folder / "report")]

    return broken


def tear_line(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([lines[0], lines[1][:9] + "\n", *lines[2:]]))


REPORTS: Cases = {
    "no runs": (lambda w: ["--out", "x"], ("RUN", "--help")),
    "no out": (lambda w: ["x"], ("--out", "--help")),
    "no such run": (lambda w: [str(w.folder / "gone"), "--out", str(w.folder / "o")], ("gone", "no such folder")),
    "no ledger": (reported(lambda r: (r / "compute.json").unlink()), ("small", "compute.json")),
    "torn ledger": (reported(lambda r: truncate(r / "compute.json")), ("small", "compute.json")),
    "ledger without a key": (
        reported(lambda r: (r / "compute.json").write_text("{}")),
        ("compute.json", "has no 'device'"),
    ),
    "ledger is a list": (reported(lambda r: (r / "compute.json").write_text("[]")), ("small", "compute.json")),
    "torn line": (reported(tear_line), ("metrics.jsonl", "line 2")),
    "no validation": (reported(lambda r: (r / "metrics.jsonl").write_text("")), ("small", "no validation")),
    "out is a file": (lambda w: [str(w.run()), "--out", *w.file("taken", "")], ("taken", "choose another folder")),
}


def prepared(*options: str, text: str | bytes | None = None) -> Callable[[Workplace], list[str]]:
    """tools/prepare_data.py on a text; tests/tools/test_prepare_data.py has many more."""

    def broken(w: Workplace) -> list[str]:
        path = str(PROSE) if text is None else w.file("text.txt", text)[0]
        return ["--text", path, "--out", str(w.folder / "out"), "--language", "en", *options]

    return broken


PREPARES: Cases = {
    "vocabulary larger than the text allows": (prepared(), ("--vocab-size 50000", "at most")),
    "empty text": (prepared(text=""), ("text.txt", "empty")),
    "white space only": (prepared("--vocab-size", "400", text=" \n\n \n" * 99), ("text",)),
    "binary noise": (prepared(text=b"\xff\xfe\x00" * 99), ("text.txt", "line 1", "UTF-8")),
    "language false": (prepared("--language", "false"), ("--language false", "de, ace")),
    "text too small": (
        prepared("--vocab-size", "400", "--block-length", "200000"),
        ("too small", "smaller --block-length"),
    ),
    "wrong option": (prepared("--vocab_size", "400"), ("--vocab_size", "did you mean '--vocab-size'")),
    "no such tokenizer": (prepared("--tokenizer", "./gone"), ("./gone", "no such folder")),
}

FETCHES: Cases = {
    "unknown source": (lambda w: ["books", "--languages", "de", "--out", "x"], ("'books'", "debian-handbook")),
    "no language": (lambda w: ["manpages", "--out", "x"], ("--languages", "--help")),
    "unknown option": (lambda w: ["manpages", "--language", "de", "--oot", "x"], ("--out", "--help")),
    "out is a file": (
        lambda w: ["manpages", "--languages", "de", "--out", *w.file("taken", "")],
        ("taken", "choose another folder"),
    ),
}

TABLE = {
    "pretrain": {
        "recipe": RECIPES,
        "command": COMMANDS,
        "checkpoint": CHECKPOINTS,
        "deepspeed": DEEPSPEED,
        "data": DATA,
    },
    "export": {"run": EXPORTS},
    "report": {"run": REPORTS},
    "prepare_data": {"text": PREPARES},
    "fetch_text": {"command": FETCHES},
}
CASES = [
    pytest.param(entry, *case, id=f"{entry}-{kind}-{name}")
    for entry, kinds in TABLE.items()
    for kind, cases in kinds.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize(("entry", "break_it", "words"), CASES)
def test_bad_input_is_one_line(entry, break_it, words, workplace, monkeypatch, capfd):
    monkeypatch.chdir(workplace.folder)
    if words[0] == "training.global_batch" and "3 ranks" in words:
        monkeypatch.setenv("WORLD_SIZE", "3")
    status, err = run_in_process(entry, break_it(workplace), capfd)
    line = the_line(err)
    assert status == 2
    assert not [word for word in words if word not in line], line


def test_a_report_names_a_run_that_is_too_young_and_shows_the_others(workplace, monkeypatch):
    run = workplace.run()
    young = shutil.copytree(run, run.with_name("young"))
    (young / "metrics.jsonl").write_text("")
    out = workplace.folder / "report"
    monkeypatch.setattr(sys, "argv", ["report.py", str(run), str(young), "--out", str(out)])
    entry_point("report").main()
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "## small: pretraining" in report
    assert f"Not shown: {young}: no validation was recorded; let the run get further." in report


def test_there_are_enough_cases():
    assert len(CASES) >= 50

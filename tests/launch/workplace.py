"""A good recipe, data folder and run, made once; each case of bad input breaks its own copy of one of them."""

import copy
import importlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import yaml

from megamini import errors
from megamini.data.manifest import manifest_fingerprint
from megamini.data.preparation.prepare import Settings, prepare

PROSE = Path(__file__).resolve().parents[1] / "integration" / "prose.txt"
REMOVED = object()

RECIPE = {
    "name": "small",
    "model": {
        "family": "roberta",
        "config": {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32},
        "exits": [2],
        "dropout": 0.0,
    },
    "data": {"path": "", "workers": 0},
    "objective": {"method": "minijoint"},
    "optimizer": {"learning_rate": 0.001},
    "schedule": {"duration": "2 updates", "warmup": "1 updates"},
    "training": {"global_batch": 4, "micro_batch": 4, "precision": "fp32", "runs": ""},
    "checkpoint": {"every": "1 updates"},
    "telemetry": {"every": 1, "peak_tflops": 1.0},
}


def make_data(out: Path) -> Path:
    """Blocks of 32 tokens of English prose; 400 pieces."""
    prepare([str(PROSE)], out, Settings("en", 400, block_length=32, validation_share=0.2), processes=1)
    return out


class Workplace:
    """One case's folder. Methods that break something return the arguments that lead to it."""

    def __init__(self, folder: Path, good_data: Path, good_runs: Path | None = None) -> None:
        self.folder, self._good_data, self._good_runs = folder, good_data, good_runs
        self._base = copy.deepcopy(RECIPE)
        self._base["data"]["path"] = str(good_data)
        self._base["training"]["runs"] = str(folder / "runs")

    def recipe(self, changes: Mapping[str, Any] | None = None, *more: str) -> list[str]:
        """Write the good recipe with `section.key` changed or REMOVED; returns its path and the arguments `more`."""
        values = changed(self._base, changes or {})
        return self.file("recipe.yaml", yaml.safe_dump(values), *more)

    def recipe_text(self, old: str, new: str) -> list[str]:
        """The good recipe with one part of its text replaced."""
        (path,) = self.recipe()
        text = Path(path).read_text(encoding="utf-8")
        assert old in text
        return self.file("recipe.yaml", text.replace(old, new, 1))

    def file(self, name: str, content: str | bytes, *more: str) -> list[str]:
        """Write a file; returns its path and the arguments `more`."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return [str(path), *more]

    def folder_named(self, name: str) -> str:
        (self.folder / name).mkdir(parents=True)
        return str(self.folder / name)

    def json(self, content: Any, changes: Mapping[str, Any] | None = None) -> list[str]:
        """The good recipe (with changes) and a DeepSpeed JSON, given as its values or as its text."""
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        return [*self.recipe(changes), "--deepspeed_config", *self.file("deepspeed.json", text)]

    def data(self) -> Path:
        """A copy of the good data, which recipes written from now on name."""
        path = self.folder / "data"
        shutil.copytree(self._good_data, path)
        self._base["data"]["path"] = str(path)
        return path

    def run(self) -> Path:
        """A copy of the good run; recipes written from now on go on with it."""
        runs = self.folder / "runs"
        shutil.copytree(self._good_runs, runs)
        recipe = runs / "small" / "recipe.yaml"
        recipe.write_text(recipe.read_text(encoding="utf-8").replace(str(self._good_runs), str(runs)), encoding="utf-8")
        return runs / "small"


def changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `values` with each `section.key` changed or REMOVED."""
    values = copy.deepcopy(values)
    for name, value in changes.items():
        *sections, key = name.split(".")
        section = reduce(lambda part, one: part.setdefault(one, {}), sections, values)
        section[key] = value
        if value is REMOVED:
            del section[key]
    return values


def edit_manifest(data: Path, **values: Any) -> None:
    """Change a data manifest and sign it anew, as another version of the tool might have written it."""
    path = data / "manifest.json"
    manifest = {**json.loads(path.read_text(encoding="utf-8")), **values}
    manifest.pop("fingerprint")
    path.write_text(json.dumps({**manifest, "fingerprint": manifest_fingerprint(manifest)}), encoding="utf-8")


def truncate(path: Path) -> None:
    """Cut a file in half, as a full disk or a kill does."""
    os.truncate(path, path.stat().st_size // 2)


def scribble(path: Path) -> None:
    """Overwrite a file with as many other bytes."""
    path.write_bytes(bytes(range(256)) * (path.stat().st_size // 256) + bytes(path.stat().st_size % 256))


def entry_point(name: str) -> ModuleType:
    return importlib.import_module(f"launch.{name}" if name in ("pretrain", "adapt") else f"tools.{name}")


def run_in_process(entry: str, arguments: list[str], capfd) -> tuple[int, str]:
    """Status and stderr of an entry point; no process group is started for what DeepSpeed would refuse."""
    from megamini.training.engines import deepspeed_engine

    module = entry_point(entry)
    capfd.readouterr()
    with (
        mock.patch.object(sys, "argv", [f"{entry}.py", *arguments]),
        mock.patch.object(deepspeed_engine, "start_process_group", lambda *_: (0, 1)),
        pytest.raises(SystemExit) as ended,
    ):
        errors.run_command(module.main)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    return ended.value.code, err


def the_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    return lines[0]

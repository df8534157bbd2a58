"""A small pretrained run, a second language, and the commands that adapt: what the tests of adaptation share."""

import runpy
import sys
from collections.abc import Mapping
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import yaml

from megamini.data.preparation.prepare import Settings, prepare
from tests.integration.cases import BLOCK_LENGTH, Case
from tests.integration.conftest import _PROSE, Lab
from tests.integration.launching import ROOT
from tests.integration.ranks import Ranks, pretrain

UPDATES = 8


def adapt(*arguments: str) -> None:
    """`python launch/adapt.py ARGUMENTS`, in this process."""
    sys.argv = ["launch/adapt.py", *arguments]
    runpy.run_path(str(ROOT / "launch/adapt.py"), run_name="__main__")


def export(*arguments: str) -> None:
    """`python tools/export.py ARGUMENTS`, in this process."""
    sys.argv = ["tools/export.py", *arguments]
    runpy.run_path(str(ROOT / "tools/export.py"), run_name="__main__")


class Workshop:
    """Sources and target data, made when first asked for."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder

    def command(self, target: Any, *arguments: str, ranks: int | None = None) -> str:
        """Run to the end in a process of its own; what it printed."""
        with Ranks(target, arguments, ranks, self.folder / "logs") as running:
            assert set(running.wait()) == {0}, running.printed()
            return running.printed()

    def target(self, language: str, vocab_size: int = 420, block_length: int = BLOCK_LENGTH) -> Path:
        """Prepared text with a vocabulary of its own."""
        out = self.folder / f"data-{language}-{vocab_size}-{block_length}"
        if not out.exists():
            settings = Settings(language, vocab_size, block_length=block_length, validation_share=0.2)
            prepare([str(_PROSE)], out, settings, processes=1)
        return out

    @cached_property
    def run(self) -> Path:
        """A MiniJoint run with two exits."""
        return self.pretrained("roberta")

    def pretrained(self, family: str, seed: int = 3) -> Path:
        home = self.folder / f"{family}-{seed}"
        case = Case(family, stage=None, ranks=1, exits=(1, 2))
        if not home.exists():
            home.mkdir()
            recipe = case.recipe(self.lab.data(), home)
            recipe["training"]["seed"] = seed
            self.command(pretrain, _written(home / "recipe.yaml", recipe))
        return home / str(case)

    @cached_property
    def primary(self) -> Path:
        """The run's primary model as a folder."""
        return self.exported("primary")

    def exported(self, name: str, *options: str, source: Path | None = None) -> Path:
        out = self.folder / name
        if not out.exists():
            self.command(export, str(source or self.run), str(out), *options)
        return out

    def recipe(self, name: str, changes: Mapping[str, Any]) -> str:
        """Path of an adaptation recipe, with `section.key` changed; its run is folder / name."""
        values: dict[str, Any] = {
            "name": name,
            "adaptation": {"source": str(self.run), "method": "mini", "exit": 2, "dropout": 0.0},
            "data": {"path": str(self.target("de")), "workers": 0},
            "optimizer": {"learning_rate": 5e-3, "clip_norm": 0.3},
            "schedule": {"duration": f"{UPDATES} updates", "warmup": "2 updates"},
            "training": {"global_batch": 8, "micro_batch": 4, "precision": "fp32", "runs": str(self.folder)},
            "telemetry": {"every": 1, "validate_every": "4 updates", "peak_tflops": 1.0},
        }
        for key, value in changes.items():
            *sections, last = key.split(".")
            reduce(lambda part, one: part.setdefault(one, {}), sections, values)[last] = value
        return _written(self.folder / f"{name}.yaml", values)

    def adapted(self, name: str, **changes: Any) -> Path:
        """The directory of a finished run; `section__key=value` changes the recipe."""
        path = self.recipe(name, {key.replace("__", "."): value for key, value in changes.items()})
        if not (self.folder / name / "packs").exists():
            self.command(adapt, path)
        return self.folder / name


def _written(path: Path, values: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)

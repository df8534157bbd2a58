"""A folder in which the pages' commands are run as they stand, one after the other: small text, short recipes.

What differs from a user's folder: recipes have few updates and narrow models, a tokenizer has 400 pieces, and the text
is this repository's own. A command that another page has run before is not run again.
"""

import contextlib
import io
import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from megamini.recipes import shipped
from tests.documentation.blocks import ROOT, Block
from tests.downstream.workplace import PROSE, make_primary
from tests.integration.ranks import Ranks

_SHORT = {
    "schedule": {"duration": "4 updates", "warmup": "1 updates", "epochs": 1.0},
    "checkpoint": {"every": "2 updates"},
    "telemetry": {"every": 2, "validate_every": "2 updates", "validation_blocks": 8},
    "adaptation": {"pack_every": "2 updates"},
    "training": {"global_batch": 8, "micro_batch": 4, "precision": "fp32", "seeds": [0]},
    "tasks": {},
}
_NARROW = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
_SMALLER = {"--vocab-size": "400", "--add": "40", "--replace-least-used": "15"}
_SMALLER_IN_PYTHON = {"vocab_size=8000": "vocab_size=400", "10M tokens": "4 updates"}


class Walk:
    """`run` a block; what it leaves behind is there for the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: set[tuple[str, ...]] = set()
        self._names: dict[Path, dict[str, Any]] = {}
        for name in ("tools", "ds_configs"):
            (folder / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "launch", folder / "launch", ignore=shutil.ignore_patterns("__pycache__"))
        for script in (folder / "launch").glob("*.py"):
            script.unlink()
            script.symlink_to(ROOT / "launch" / script.name)  # so that it finds the package beside itself
        recipes = folder / "launch/recipes"
        for recipe in (*recipes.glob("quickstart/*.yaml"), recipes / "my_language.yaml"):  # others are only planned
            recipe.write_text(yaml.safe_dump(_shortened(yaml.safe_load(recipe.read_text(encoding="utf-8")))))
        _write_texts(folder)
        (folder / "models").mkdir()
        make_primary(folder / "models/mine", length=128)

    def run(self, block: Block) -> None:
        """Fails where a command does not end with status 0, or Python raises."""
        if block.kind == "python":
            self._python(block)
            return
        for number, words in enumerate(block.commands):
            if tuple(words) not in self._done:
                self._done.add(tuple(words))
                self._command(words, f"{block.page.stem}-{block.line}-{number}")

    def _python(self, block: Block) -> None:
        text = block.text
        for old, new in _SMALLER_IN_PYTHON.items():
            text = text.replace(old, new)
        short = mock.patch.multiple(shipped, ROOT=self.folder, RECIPES=self.folder / "launch/recipes")
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()), short:
            exec(compile(text, str(block), "exec"), self._names.setdefault(block.page, {}))

    def _command(self, words: list[str], name: str) -> None:
        ranks = None
        if words[0] == "deepspeed":  # --num_gpus N SCRIPT ...; the launcher itself is tested in tests/integration
            ranks, words = int(words[2]), words[2:]
        words = [_SMALLER.get(before, word) for before, word in zip([None, *words], words, strict=False)]
        with Ranks(_run_script, (str(self.folder), words[1:]), ranks, self.folder / "logs" / name) as running:
            statuses = running.wait()
            assert set(statuses) == {0}, f"{' '.join(words)}\n{running.printed()[-3000:]}"


def _run_script(folder: str, words: list[str]) -> None:
    """`python WORDS` in `folder`, in this process."""
    os.chdir(folder)
    torch.set_num_threads(1)
    if words[0] == "-c":
        exec(words[1], {"__name__": "__main__"})
        return
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _shortened(recipe: dict[str, Any]) -> dict[str, Any]:
    for section, values in _SHORT.items():
        for key, value in values.items():
            if key in recipe.get(section, {}):
                recipe[section][key] = value
    if "data" in recipe:
        recipe["data"]["workers"] = 0
    if "config" in recipe.get("model", {}):
        recipe["model"]["config"] |= _NARROW
    return recipe


def _write_texts(folder: Path) -> None:
    """Parallel help pages as tools/fetch_text.py writes them, and a file of a user's own."""
    lines = [line for line in PROSE.read_text(encoding="utf-8").splitlines() if line.strip()]
    (folder / "data/text").mkdir(parents=True)
    for language in ("en", "de"):
        pages = [
            {"id": f"{label}/{number}.html", "text": f"{lines[number % len(lines)]} {label} {number}", "label": label}
            for number in range(200)
            for label in ("swriter", "scalc")
        ]
        text = "".join(json.dumps(page) + "\n" for page in pages)
        (folder / f"data/text/libreoffice-help.{language}.jsonl").write_text(text, encoding="utf-8")
    own = [f"{line} {number}" for number in range(20) for line in lines]
    (folder / "text").mkdir()
    for language in ("xx", "en"):
        (folder / f"text/parallel.{language}.txt").write_text("\n".join(own) + "\n", encoding="utf-8")
    (folder / "words.tsv").write_text("ze\tthe\nund\tand\nvon\tof\nein\ta\nzu\tto\n", encoding="utf-8")
    accented = [line.translate(str.maketrans("aeiou", "áéíóú")) for line in own]  # a language of its own
    (folder / "my-language.txt").write_text("\n\n".join([*own, *accented]) + "\n", encoding="utf-8")

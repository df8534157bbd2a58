"""A run saved by some ranks at one ZeRO stage goes on with others, at another stage, or without DeepSpeed: same losses.

Global batch 24, fp32, dropout 0. What the run that changed loses over its next 5 updates is held against what the one
that did not change loses over the same.
"""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
import yaml

from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import Ranks, pretrain

pytestmark = pytest.mark.launched

SAVED_AT, MORE = 6, 5
PLACES = [
    Case(stage=None, ranks=1),
    *(Case(stage=stage, ranks=ranks) for stage, ranks in product(range(4), range(1, 5))),
]
FEW = [
    (Case(stage=2, ranks=2), Case(stage=3, ranks=3)),
    (Case(stage=3, ranks=3), Case(stage=None, ranks=1)),
    (Case(stage=None, ranks=1), Case(stage=1, ranks=2)),
    (Case(stage=1, ranks=2, muon=True), Case(stage=3, ranks=3, muon=True)),
    (Case("llama", 3, ranks=3, exits=(), lora=True), Case("llama", None, ranks=1, exits=(), lora=True)),
    (Case("llama", None, ranks=1, exits=(), lora=True), Case("llama", 2, ranks=2, exits=(), lora=True)),
]
# Every place once as the one that saves, and most as one that goes on; drawn once for all.
MANY = list(zip(PLACES, random.Random(8).sample(PLACES, len(PLACES)), strict=True))
MANY += [(Case(stage=stage, ranks=4), Case(stage=stage, ranks=1)) for stage in range(4)]
MANY += [(Case(stage=stage, ranks=1), Case(stage=stage, ranks=3)) for stage in range(4)]
# The same twenty and more with Muon.
MANY += [(replace(source, muon=True), replace(target, muon=True)) for source, target in MANY]


class Places:
    """Runs of one recipe at different places; the one that saves is made once for each."""

    def __init__(self, data: Path, folder: Path) -> None:
        self._data, self._folder = data, folder

    def saved(self, place: Case) -> Path:
        """The folder of a run that was saved on the way and went on where it was."""
        home = self._folder / f"{place}-saves"
        if not home.exists():
            self._run(home, place, SAVED_AT)
            shutil.copytree(home, self._folder / f"{place}-as-saved")
            self._run(home, place, SAVED_AT + MORE)
        return home

    def moved(self, source: Case, target: Case) -> Path:
        """The folder of a run that was saved at `source` and went on at `target`."""
        self.saved(source)
        home = self._folder / f"{source}-to-{target}"
        shutil.copytree(self._folder / f"{source}-as-saved", home)
        printed = self._run(home, target, SAVED_AT + MORE)
        assert f"resuming from checkpoint step-{SAVED_AT:08d}" in printed
        return home

    def _run(self, home: Path, place: Case, updates: int) -> str:
        home.mkdir(exist_ok=True)
        recipe = place.recipe(self._data, home) | {"name": "run"}
        recipe["training"] |= {"global_batch": 24, "micro_batch": 3}
        # The rate stays as it is behind the warm-up, so that a run may be made longer.
        recipe["schedule"] = {"duration": f"{updates} updates", "warmup": "3 updates", "final_share": 1.0}
        (home / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        arguments = [str(home / "recipe.yaml")]
        if place.stage is not None:
            zero = {"stage": place.stage} | ({"stage3_param_persistence_threshold": 100} if place.stage == 3 else {})
            (home / "deepspeed.json").write_text(json.dumps({"zero_optimization": zero}))
            arguments += ["--deepspeed_config", str(home / "deepspeed.json")]
        with Ranks(pretrain, arguments, None if place.stage is None else place.ranks, home / "logs") as ranks:
            assert set(ranks.wait()) == {0}, ranks.printed()
            return ranks.printed()


@pytest.fixture(scope="module")
def places(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    return Places(lab.data(), tmp_path_factory.mktemp("elastic"))


@pytest.mark.parametrize(("source", "target"), FEW, ids=str)
def test_moved_runs_lose_the_same(source: Case, target: Case, places: Places, lab: Lab, record_property) -> None:
    if source.lora:
        pytest.importorskip("peft")
        lab.source(source)
    check_moved_runs_lose_the_same(source, target, places, record_property)


@pytest.mark.all_combinations
@pytest.mark.parametrize(("source", "target"), [pair for pair in dict.fromkeys(MANY) if pair not in FEW], ids=str)
def test_moved_runs_lose_the_same_everywhere(source: Case, target: Case, places: Places, record_property) -> None:
    check_moved_runs_lose_the_same(source, target, places, record_property)


def check_moved_runs_lose_the_same(source: Case, target: Case, places: Places, record_property) -> None:
    stayed, moved = (read_scalars(home / "run") for home in (places.saved(source), places.moved(source, target)))
    updates = range(SAVED_AT + 1, SAVED_AT + MORE + 1)
    names = [name for name in stayed if name.startswith("train/loss")] + ["train/grad_norm"]
    assert ("train/loss_exit_2" in names) == bool(source.exits)
    worst = max(abs(moved[name][u] / stayed[name][u] - 1) for name in names for u in updates)
    record_property("worst_relative_difference", worst)
    print(f"{source} -> {target}: worst relative difference {worst:.2e}")
    assert worst < 1e-5
    # The data that came next were the same too: every update has its own loss, far apart from one another.
    losses = [stayed["train/loss"][u] for u in updates]
    assert min(abs(a / b - 1) for a, b in pairwise(losses)) > 1e-4

"""Optimizer states on disk (`offload_optimizer` to NVMe) train, save and resume as those in memory do: bit for bit."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a rank's script

import pytest
import torch
import yaml
from deepspeed.ops.op_builder import AsyncIOBuilder
from safetensors import safe_open

from megamini.training import run as run_module
from megamini.training.checkpoints.checkpoint import Checkpoints
from megamini.training.engines.engine import Engine
from megamini.training.setup import RunSetup
from megamini.training.state.shards import MOMENTS, WEIGHT, Shards
from megamini.training.state.train_state import TrainState
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import free_port, read_scalars, run_command
from tests.integration.ranks import pretrain

pytestmark = [
    pytest.mark.launched,
    pytest.mark.all_combinations,  # the first run builds DeepSpeed's reader and writer, for minutes
    pytest.mark.skipif(
        not AsyncIOBuilder().is_compatible(verbose=False) or shutil.which("g++") is None,
        reason="offload to NVMe needs libaio with its headers (libaio-dev) and g++",
    ),
]

UPDATES, SAVE_EVERY = 8, 4
ELEMENTS = 300_000  # in a sub-group: DeepSpeed keeps what has less than a MiB in memory
WALL_CLOCK = ("train/tokens_per_second", "train/mfu", "train/waiting_for_data")


class Runs:
    """One recipe, trained with states in memory and on disk."""

    def __init__(self, lab: Lab, folder: Path, precision: str, cpu_adam: bool, muon: bool = False) -> None:
        case = Case(stage=3, precision=precision, forgetting=True, muon=muon)
        recipe = case.recipe(lab.data(), folder)
        recipe["model"]["config"] |= {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
        recipe["model"] |= {"dropout": 0.1, "exits": [2]}
        recipe["schedule"]["duration"] = f"{UPDATES} updates"
        recipe["objective"]["forgetting"] = {"every": "3 updates", "none_in_last": "1 updates"}
        recipe["telemetry"]["validate_every"] = f"{UPDATES} updates"
        recipe["checkpoint"] = {"every": f"{SAVE_EVERY} updates", "keep_last": 9}
        self.folder, self.swap = folder, folder / "swap"
        (folder / "recipe.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(recipe))))
        zero = {"stage": 3, "sub_group_size": ELEMENTS, "stage3_param_persistence_threshold": 1000}
        # Both offloaded, since DeepSpeed adds the norm of gradients in another precision where nothing is.
        devices = {"memory": {"device": "cpu"}, "disk": {"device": "nvme", "nvme_path": str(self.swap)}}
        for name, device in devices.items():
            values = {**zero, "offload_optimizer": {**device, "pin_memory": False}}
            text = json.dumps({"zero_optimization": values, "zero_force_ds_cpu_optimizer": cpu_adam})
            (folder / f"{name}.json").write_text(text)
        self.memory, self.disk = self.train("memory", "memory"), self.train("disk", "disk")

    def train(self, name: str, states: str, *more: str, script: str = "launch/pretrain.py") -> Path:
        """Start, or go on, as two ranks, with states in memory or on disk; the run directory."""
        launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2"]
        launcher += ["--master_port", str(free_port()), script, str(self.folder / "recipe.yaml")]
        options = ["--deepspeed_config", str(self.folder / f"{states}.json"), f"name={name}", *more]
        done = run_command([*launcher, *options], timeout=560)  # it may build extensions
        assert done.returncode == 0, done.stdout[-4000:]
        return self.folder / name

    def back_at(self, update: int, name: str) -> None:
        """A copy of the run with states on disk, as it stood when it saved at `update`."""
        shutil.copytree(self.disk, self.folder / name)
        for later in (self.folder / name / "checkpoints").glob("step-*"):
            if int(later.name.removeprefix("step-")) > update:
                shutil.rmtree(later)
        (self.folder / name / "checkpoints" / "latest").write_text(f"step-{update:08d}\n")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("bf16", True), id="bf16-cpu_adam"),
        pytest.param(("fp32", False), id="fp32-adamw"),
        pytest.param(("bf16", False, True), id="bf16-muon"),
    ],
)
def runs(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(lab, tmp_path_factory.mktemp("nvme"), *request.param)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """All of a checkpoint, whoever wrote it."""
    numel: dict[str, int] = {}
    for path in folder.glob("state-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                kind, _, name = key.split(":", 2)
                numel[name] = numel.get(name, 0) + file.get_slice(key).get_shape()[0] * (kind == WEIGHT)
    shards = Shards(folder)
    kinds = {name: (WEIGHT, *shards.moments(name)) for name in numel}
    whole = {f"{kind} {name}": shards.read(kind, name, 0, numel[name]) for name in numel for kind in kinds[name]}
    return whole | {f"step {name}": shards.step(name) for name in numel if MOMENTS[0] in kinds[name]}


def assert_same_state(*folders: Path) -> None:
    one, other = map(state_of, folders)
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def assert_same(one: Path, other: Path) -> None:
    assert_same_state(*(run / "checkpoints" / f"step-{UPDATES:08d}" for run in (one, other)))
    scalars = [
        {name: values for name, values in read_scalars(run).items() if name not in WALL_CLOCK} for run in (one, other)
    ]
    assert scalars[0] == scalars[1]


def test_states_on_disk_train_as_those_in_memory(runs: Runs) -> None:
    parts = list((runs.disk / "checkpoints" / f"step-{UPDATES:08d}").glob("state-00001-*.safetensors"))
    assert len(parts) > 2, "one file for each sub-group"
    assert_same(runs.memory, runs.disk)


@pytest.mark.parametrize("states", ["disk", "memory"])
def test_what_was_saved_from_disk_goes_on(states: str, runs: Runs) -> None:
    runs.back_at(SAVE_EVERY, f"resumed-{states}")
    assert_same(runs.train(f"resumed-{states}", states), runs.disk)


def test_a_run_goes_back_to_a_checkpoint(runs: Runs) -> None:
    """As after a loss spike: what is on disk by then is that of later updates."""
    runs.back_at(UPDATES, "went-back")
    run = runs.train("went-back", "disk", f"schedule.duration={UPDATES + 2} updates", script=__file__)
    name = f"step-{SAVE_EVERY:08d}"
    assert_same_state(run / "checkpoints" / name, run / "again" / name)


def test_nothing_is_left_on_disk(runs: Runs) -> None:
    assert not list(runs.swap.iterdir())


# --- in the ranks ---------------------------------------------------------------------------------------------------


def train_and_go_back() -> None:
    """The command; its engine then loads an earlier checkpoint, and saves what it has beside the others."""
    execute = run_module.execute

    def execute_and_go_back(setup: RunSetup, engine: Engine, *more: Any) -> TrainState:
        state, directory = execute(setup, engine, *more), setup.recipe.run_directory
        engine.load(Shards(directory / "checkpoints" / f"step-{SAVE_EVERY:08d}", engine.rank))
        Checkpoints(directory / "again", 1, setup.identity()).save(engine, TrainState(update=SAVE_EVERY))
        return state

    with mock.patch.object(run_module, "execute", execute_and_go_back):
        pretrain(*sys.argv[1:])


if __name__ == "__main__":
    train_and_go_back()

"""The two command lines of pretraining, as a user types them, and all that they leave behind."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megamini.recipes.recipe import Recipe, load_recipe
from tests.integration.cases import BLOCK_LENGTH, GLOBAL_BATCH, UPDATES, VALIDATE_EVERY, Case
from tests.integration.conftest import Lab
from tests.integration.launching import free_port, read_scalars, run_command

pytestmark = pytest.mark.launched

EVERY_UPDATE = {
    "train/loss",
    "train/loss_primary",
    "train/loss_exit_2",
    "train/lr",
    "train/grad_norm",
    "train/tokens_per_second",
    "train/waiting_for_data",
    "train/mfu",
    "compute/flops",
    "compute/tokens",
}
EVERY_VALIDATION = {f"validation/{kind}_{head}" for kind in ("loss", "bits_per_byte") for head in ("primary", "exit_2")}
TOKENS = UPDATES * GLOBAL_BATCH * BLOCK_LENGTH


class Runs:
    """The same recipe trained by both command lines."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        case = Case(accumulation=2)
        self.recipe = folder / "recipe.yaml"
        values = case.recipe(lab.data(), folder) | {"checkpoint": {"every": "8 updates", "keep_last": 2}}
        self.recipe.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
        self.deepspeed, self.plain = folder / "deepspeed", folder / "plain"
        launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2"]
        launcher += ["--master_port", str(free_port())]
        self._run(launcher, self.deepspeed, "--deepspeed_config", "ds_configs/zero2.json")
        self._run([sys.executable], self.plain)

    def _run(self, start: list[str], run_directory: Path, *options: str) -> None:
        command = [*start, "launch/pretrain.py", str(self.recipe), *options, f"name={run_directory.name}"]
        done = run_command(command, timeout=280)
        assert done.returncode == 0, done.stdout[-4000:]
        assert "Traceback" not in done.stdout


@pytest.fixture(scope="module")
def runs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(lab, tmp_path_factory.mktemp("commands"))


@pytest.fixture(params=["deepspeed", "plain"])
def run(request: pytest.FixtureRequest, runs: Runs) -> Iterator[Path]:
    return getattr(runs, request.param)


def test_both_commands_train_alike(runs: Runs) -> None:
    ranks, single = read_scalars(runs.deepspeed), read_scalars(runs.plain)
    assert ranks.keys() == single.keys()
    for name in (name for name in single if name.startswith(("train/loss", "validation/"))):
        assert ranks[name] == pytest.approx(single[name], rel=1e-6, abs=0), name


def test_bf16_at_stage_0_is_refused(runs: Runs) -> None:
    """DeepSpeed would start Adam at its second step there."""
    command = [sys.executable, "launch/pretrain.py", str(runs.recipe), "--deepspeed_config", "ds_configs/zero0.json"]
    done = run_command([*command, "name=refused", "training.precision=bf16"], timeout=120)
    assert done.returncode == 2, done.stdout[-4000:]
    assert "training.precision: bf16 needs ZeRO stage 1" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (runs.recipe.parent / "refused").exists()


def test_metrics_hold_every_scalar_of_the_contract(run: Path) -> None:
    scalars = read_scalars(run)
    for name in EVERY_UPDATE:
        assert sorted(scalars[name]) == list(range(1, UPDATES + 1)), name
    for name in EVERY_VALIDATION:
        assert sorted(scalars[name]) == [VALIDATE_EVERY, 2 * VALIDATE_EVERY, UPDATES], name


def test_tensorboard_holds_what_metrics_hold(run: Path) -> None:
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = read_scalars(run)
    assert set(board.Tags()["scalars"]) == set(scalars)
    for name, values in scalars.items():
        written = [(event.step, event.value) for event in board.Scalars(name)]
        assert written == [(update, float(np.float32(value))) for update, value in values.items()], name  # fp32 events


def test_rates_follow_from_one_another(run: Path) -> None:
    scalars, ranks = read_scalars(run), 2 if run.name == "deepspeed" else 1
    flops_per_token = scalars["compute/flops"][UPDATES] / TOKENS
    for update, rate in scalars["train/tokens_per_second"].items():
        assert scalars["train/mfu"][update] == pytest.approx(rate * flops_per_token / (ranks * 1e12))  # peak_tflops: 1
        assert scalars["compute/tokens"][update] == update * GLOBAL_BATCH * BLOCK_LENGTH


def test_recipe_is_kept_as_it_was_run(runs: Runs, run: Path) -> None:
    asked = load_recipe(runs.recipe, [f"name={run.name}", "training.block_order=runs"])  # a new run's, where unset
    assert load_recipe(run / "recipe.yaml") == asked
    assert Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text())) == asked


def test_merged_deepspeed_configuration_is_kept(runs: Runs) -> None:
    merged = json.loads((runs.deepspeed / "deepspeed.json").read_text())
    asked = json.loads(Path("ds_configs/zero2.json").read_text())
    assert {key: merged[key] for key in asked} == asked
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [merged[key] for key in sizes] == [8, 2, 2]
    assert merged["gradient_clipping"] == 0.5
    assert not merged["bf16"]["enabled"]
    assert not (runs.plain / "deepspeed.json").exists()


def test_ledger_adds_up(run: Path) -> None:
    ledger, scalars = json.loads((run / "compute.json").read_text()), read_scalars(run)
    assert (ledger["updates"], ledger["tokens"], ledger["device"]) == (UPDATES, TOKENS, "cpu")
    assert ledger["ranks"] == (2 if run.name == "deepspeed" else 1)
    assert ledger["flops"] == scalars["compute/flops"][UPDATES] > 0
    assert ledger["seconds"] > 0


def test_checkpoints_are_complete_and_pruned(run: Path) -> None:
    checkpoints = run / "checkpoints"
    folders = sorted(path.name for path in checkpoints.iterdir() if path.is_dir())
    assert folders == ["step-00000016", "step-00000020"]  # step 8 is pruned
    assert (checkpoints / "latest").read_text().strip() == "step-00000020"
    for folder in folders:
        manifest = json.loads((checkpoints / folder / "manifest.json").read_text())
        listed = {entry["file"]: entry["sha256"] for entry in manifest["files"]}
        there = {
            str(path.relative_to(checkpoints / folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (checkpoints / folder).rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }
        assert listed == there
        assert there
        assert manifest["state"]["update"] == int(folder.removeprefix("step-"))

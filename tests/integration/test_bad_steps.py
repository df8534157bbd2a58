"""A loss or gradient that is not finite on one rank: all ranks leave the update out, count it, and K in a row end.

The fault comes from outside: hooks on the model that the real command has built.
"""

import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from torch import nn

from megamini.models.build import build_primary
from megamini.training.checkpoints.checkpoint import newest_first
from megamini.training.checkpoints.manifest import MANIFEST
from megamini.training.engines.engine import StepResult
from megamini.training.engines.plain_engine import PlainEngine
from megamini.training.finished.weights import load_run
from tests.integration.cases import UPDATES, Case
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import Ranks, pretrain

pytestmark = pytest.mark.launched

# What goes wrong, by the number of the update (and so of its global batch): the loss, or one number of one gradient.
FAULTS = {3: ("loss", math.nan), 6: ("gradient", math.inf), 7: ("loss", -math.inf), 12: ("gradient", math.nan)}
FP32 = [Case(stage=None, ranks=1), *(Case(stage=stage) for stage in range(4)), Case(stage=2, muon=True)]
MUON = [Case(stage=None, ranks=1, muon=True), *(Case(stage=stage, muon=True) for stage in (0, 1, 3))]
BF16 = [Case(stage=None, ranks=1, precision="bf16"), *(Case(stage=stage, precision="bf16") for stage in (1, 2, 3))]

Faults = dict[int, tuple[str, float]]


@pytest.mark.parametrize("case", FP32, ids=str)
def test_bad_update_is_left_out_on_all_ranks(case: Case, lab: Lab, healthy: Callable, tmp_path: Path) -> None:
    check_healthy_but_for_what_is_left_out(case, lab, healthy(case.muon), tmp_path)


@pytest.mark.all_combinations
@pytest.mark.parametrize("case", MUON, ids=str)
def test_bad_update_is_left_out_by_muon(case: Case, lab: Lab, healthy: Callable, tmp_path: Path) -> None:
    check_healthy_but_for_what_is_left_out(case, lab, healthy(case.muon), tmp_path)


def check_healthy_but_for_what_is_left_out(case: Case, lab: Lab, left_out: dict, folder: Path) -> None:
    """Beside a healthy run which leaves the same updates out, in plain PyTorch."""
    directory = check_bad_updates(case, lab, folder)
    weights = dict(load_run(directory).model.named_parameters())
    assert weights.keys() == left_out["weights"].keys()
    difference = max((weights[name] - value).abs().max().item() for name, value in left_out["weights"].items())
    assert difference <= (0 if case.stage is None else 2e-4)
    scalars = read_scalars(directory)
    for name in ("train/loss", "train/grad_norm", "train/lr"):
        assert scalars[name] == pytest.approx(left_out["scalars"][name], rel=1e-5), name


@pytest.mark.all_combinations
@pytest.mark.parametrize("case", BF16, ids=str)
def test_bad_update_is_left_out_in_bf16(case: Case, lab: Lab, tmp_path: Path) -> None:
    check_bad_updates(case, lab, tmp_path)


def check_bad_updates(case: Case, lab: Lab, folder: Path) -> Path:
    """Train with `FAULTS` on the last rank, and look at every update of every rank. Returns the run directory."""
    directory, arguments = command(case, lab, folder)
    with Ranks(pretrain_with_faults, [FAULTS, str(folder), *arguments], ranks_of(case), folder / "logs") as ranks:
        assert set(ranks.wait()) == {0}, ranks.printed()
        printed = ranks.printed()

    for rank in range(case.ranks):
        applied, states = zip(*json.loads((folder / f"rank{rank}.json").read_text()), strict=True)
        assert [update for update in range(UPDATES) if not applied[update]] == list(FAULTS), f"rank {rank}"
        unchanged = [update for update in range(1, UPDATES) if states[update] == states[update - 1]]
        assert unchanged == list(FAULTS), f"rank {rank}"

    assert [line for line in printed.splitlines() if "not finite" in line] == [
        f"update {update + 1}: loss or gradient not finite, update not applied ({count} so far); its blocks are global "
        f"batch {update}"
        for count, update in enumerate(FAULTS, 1)
    ]
    scalars = read_scalars(directory)
    counted = {done: sum(update < done for update in FAULTS) for done in range(1, UPDATES + 1)}
    assert scalars["train/skipped_updates"] == counted
    assert all(math.isfinite(value) for values in scalars.values() for value in values.values())
    for name in ("train/loss", "train/loss_primary", "train/grad_norm"):
        assert sorted(scalars[name]) == [done for done in range(1, UPDATES + 1) if done - 1 not in FAULTS], name
    state = json.loads((newest_first(directory / "checkpoints")[0] / MANIFEST).read_text())["state"]
    assert (state["skipped"], state["skipped_in_a_row"], state["scaler_overflows"]) == (len(FAULTS), 0, 0)
    assert json.loads((directory / "compute.json").read_text())["skipped_updates"] == len(FAULTS)
    return directory


@pytest.mark.parametrize("case", [Case(stage=None, ranks=1), Case(stage=2)], ids=str)
def test_bad_updates_in_a_row_end_the_run(case: Case, lab: Lab, tmp_path: Path) -> None:
    check_bad_updates_in_a_row(case, lab, tmp_path)


@pytest.mark.all_combinations
@pytest.mark.parametrize("case", [*(Case(stage=stage) for stage in (0, 1, 3)), *BF16], ids=str)
def test_bad_updates_in_a_row_end_the_run_everywhere(case: Case, lab: Lab, tmp_path: Path) -> None:
    check_bad_updates_in_a_row(case, lab, tmp_path)


def check_bad_updates_in_a_row(case: Case, lab: Lab, folder: Path) -> None:
    """Two, a good one, then three: only these end the run."""
    faults = {2: ("loss", math.nan), 3: ("gradient", math.inf)}
    faults |= {5: ("gradient", math.nan), 6: ("loss", math.inf), 7: ("loss", math.nan)}
    directory, arguments = command(case, lab, folder, "training.stop_after_nonfinite=3")
    with Ranks(pretrain_with_faults, [faults, str(folder), *arguments], ranks_of(case), folder / "logs") as ranks:
        codes = ranks.wait()
        printed = [ranks.printed(rank) for rank in range(case.ranks)]
    assert set(codes) == {2}, printed
    assert not any("Traceback" in text for text in printed)
    (line,) = [line for line in printed[0].splitlines() if line.startswith("error: ")]
    assert line.startswith("error: 3 updates in a row were not finite")
    assert "global batches 5 to 7" in line
    assert printed[0].rstrip().endswith(line)
    assert max(read_scalars(directory)["train/loss"]) == 5


@pytest.fixture(scope="module")
def healthy(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], dict]:
    """Weights and scalars of a healthy run in plain PyTorch whose optimizer does not move at the faulty updates."""

    @functools.cache
    def train(muon: bool) -> dict:
        folder = tmp_path_factory.mktemp("left_out")
        directory, arguments = command(Case(stage=None, ranks=1, muon=muon), lab, folder)
        with Ranks(pretrain_leaving_out, [list(FAULTS), *arguments], None, folder / "logs") as ranks:
            assert ranks.wait() == [0], ranks.printed()
        weights = {name: parameter.detach() for name, parameter in load_run(directory).model.named_parameters()}
        return {"weights": weights, "scalars": read_scalars(directory)}

    return train


def command(case: Case, lab: Lab, folder: Path, *overrides: str) -> tuple[Path, list[str]]:
    """Run directory and arguments of a run of `case`."""
    recipe = case.recipe(lab.data(), folder)
    recipe["model"]["exits"] = list(recipe["model"].get("exits", ()))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [str(folder / "recipe.yaml"), *overrides]
    if case.stage is not None:
        zero = {"stage": case.stage} | ({"stage3_param_persistence_threshold": 0} if case.stage == 3 else {})
        (folder / "deepspeed.json").write_text(json.dumps({"zero_optimization": zero}))
        arguments += ["--deepspeed_config", str(folder / "deepspeed.json")]
    return folder / str(case), arguments


def ranks_of(case: Case) -> int | None:
    return None if case.stage is None else case.ranks


# --- in the ranks ---------------------------------------------------------------------------------------------------


def pretrain_with_faults(faults: Faults, folder: str, *arguments: str) -> None:
    """The command, with `faults` on the last rank; whether each update was applied and what it left go to `folder`."""
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    def build(*args: object) -> nn.Module:
        model = build_primary(*args)
        if rank == ranks - 1:
            break_model(model, faults)
        return model

    with mock.patch("megamini.training.run.build_primary", build):
        with steps_recorded(Path(folder) / f"rank{rank}.json"):
            pretrain(*arguments)


def break_model(model: nn.Module, faults: Faults) -> None:
    """One micro-batch per update: the update is the number of the forward pass, which the backward pass follows."""
    numbers, now = itertools.count(), [("", 0.0)]

    def break_loss(module: nn.Module, _: tuple, output: tuple) -> tuple:
        if module.training:
            now[0] = faults.get(next(numbers), ("", 0.0))
        where, value = now[0]
        return (output[0] * value, output[1] * value) if module.training and where == "loss" else output

    def break_gradient(gradient: torch.Tensor) -> torch.Tensor:
        where, value = now[0]
        if where == "gradient":
            gradient = gradient.clone()
            gradient.flatten()[0] = value
        return gradient

    model.register_forward_hook(break_loss)
    _, parameter = next(item for item in model.named_parameters() if item[0].endswith("attention.self.query.weight"))
    parameter.register_hook(break_gradient)


@contextmanager
def steps_recorded(path: Path) -> Iterator[None]:
    """Write [applied, digest of all that the optimizer moves on this rank] of each update."""
    from megamini.training.engines.deepspeed_engine import DeepSpeedEngine

    records: list[tuple[bool, str]] = []

    def recording(step: Callable) -> Callable:
        def recorded(engine, learning_rate: float) -> StepResult:
            result = step(engine, learning_rate)
            records.append((result.applied, digest(engine)))
            path.write_text(json.dumps(records))
            return result

        return recorded

    with mock.patch.object(DeepSpeedEngine, "step", recording(DeepSpeedEngine.step)):
        with mock.patch.object(PlainEngine, "step", recording(PlainEngine.step)):
            yield


def digest(engine) -> str:
    """Of masters, moments, step counters and the weights that the model computes with, as far as this rank has them."""
    if isinstance(engine, PlainEngine):
        masters, optimizer = engine._masters, engine._optimizer
    else:
        groups = range(len(engine._engine.optimizer.param_groups))
        masters = [held for group in groups for held in engine._held_by_optimizer(group)]
        optimizer = engine._engine.optimizer.optimizer if engine._stage else engine._engine.optimizer
    moments = [value for master in masters for _, value in sorted(optimizer.state[master].items())]
    assert moments
    working = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.model.parameters()]
    tensors = [torch.as_tensor(value).detach().cpu().contiguous().flatten() for value in (*masters, *moments, *working)]
    return hashlib.sha256(b"".join(tensor.view(torch.uint8).numpy().tobytes() for tensor in tensors)).hexdigest()


def pretrain_leaving_out(updates: list[int], *arguments: str) -> None:
    """The command in plain PyTorch, whose optimizer is not asked to move at `updates`."""
    step, numbers = PlainEngine.step, itertools.count()

    def leave_out(engine: PlainEngine, learning_rate: float) -> StepResult:
        if next(numbers) not in updates:
            return step(engine, learning_rate)
        engine._optimizer.zero_grad()
        return StepResult(False, math.inf)

    with mock.patch.object(PlainEngine, "step", leave_out):
        pretrain(*arguments)

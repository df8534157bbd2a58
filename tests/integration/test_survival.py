"""A run that hangs ends with stack traces; a loss spike is left behind, and the blocks around it left out."""

import itertools
import os
import signal
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from megamini.data.batches import TrainingMicroBatches
from megamini.errors import TRY_AGAIN
from megamini.models.build import build_primary
from megamini.training.engines import deepspeed_engine
from megamini.training.finished.weights import load_run
from megamini.training.safety.watchdog import Watchdog
from tests.integration.cases import UPDATES, Case
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import Ranks, pretrain, wait_for_update
from tests.integration.test_bad_steps import command, ranks_of

pytestmark = pytest.mark.launched

# The spike is in global batch 8; the newest checkpoint before it holds 6 updates.
SPIKE, SAVED_AT = 8, 6
SETTINGS = ("training.spike.above=1.0", "training.spike.window=4", "checkpoint.every=3 updates")


def test_a_stopped_rank_ends_the_run_with_stack_traces(lab: Lab, tmp_path: Path) -> None:
    case = Case(stage=1)
    directory, arguments = command(case, lab, tmp_path, "training.hang_minutes=0.1", "schedule.duration=100000 updates")
    with Ranks(pretrain, arguments, 2, tmp_path / "logs") as ranks:
        wait_for_update(directory, 3, ranks)
        os.kill(ranks.pids[1], signal.SIGSTOP)
        ranks.processes[0].join(60)
        os.kill(ranks.pids[1], signal.SIGCONT)
        codes, printed = ranks.wait(60), [ranks.printed(rank) for rank in range(2)]
    assert codes[0] == TRY_AGAIN
    assert codes[1] != 0
    (line,) = [line for line in printed[0].splitlines() if line.startswith("error: ")]
    assert "rank 0: nothing has moved for 0.1 minutes (training.hang_minutes) after update" in line
    assert "loop.py" in printed[0].partition(line)[2], "where the main thread stands"


@pytest.mark.parametrize("stage", [1, 3])
def test_without_the_watchdog_a_collective_gives_up(stage: int, lab: Lab, tmp_path: Path) -> None:
    """Long timeouts at the start, short ones once updates run; for a rank whose watchdog cannot speak."""
    case = Case(stage=stage)
    directory, arguments = command(case, lab, tmp_path, "training.hang_minutes=0.1", "schedule.duration=100000 updates")
    with Ranks(pretrain_without_watchdog, arguments, 2, tmp_path / "logs") as ranks:
        wait_for_update(directory, 3, ranks)
        os.kill(ranks.pids[1], signal.SIGSTOP)
        ranks.processes[0].join(60)
        assert ranks.processes[0].exitcode not in (None, 0, TRY_AGAIN), ranks.printed(0)
    assert "Timed out waiting 7000ms" in ranks.printed(0)


def pretrain_without_watchdog(*arguments: str) -> None:
    with (
        mock.patch.object(Watchdog, "_watch", lambda self: None),
        mock.patch.object(deepspeed_engine, "_behind_the_watchdog", lambda hang: timedelta(minutes=hang, seconds=1)),
    ):
        pretrain(*arguments)


@pytest.mark.parametrize("case", [Case(stage=None, ranks=1), Case(stage=2, lowered=True)], ids=str)
def test_a_spike_is_left_behind(case: Case, lab: Lab, tmp_path: Path) -> None:
    check_a_spike_is_left_behind(case, lab, tmp_path)


@pytest.mark.all_combinations
@pytest.mark.parametrize("case", [Case(stage=stage) for stage in (0, 1, 3)], ids=str)
def test_a_spike_is_left_behind_everywhere(case: Case, lab: Lab, tmp_path: Path) -> None:
    check_a_spike_is_left_behind(case, lab, tmp_path)


def check_a_spike_is_left_behind(case: Case, lab: Lab, folder: Path) -> None:
    """The run ends as one that never saw the blocks from the checkpoint to the spike: bit for bit."""
    printed, weights, scalars = run(case, lab, folder / "spike", with_spike, "training.spike.most_roll_backs=1")
    assert f"its blocks are global batch {SPIKE}; going back to the newest checkpoint" in printed
    assert f"resuming from checkpoint step-{SAVED_AT:08d}" in printed
    _, expected, reference = run(case, lab, folder / "without", without_the_blocks)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for name in ("train/loss", "train/grad_norm", "train/lr"):
        assert scalars[name] == reference[name]
        assert sorted(scalars[name]) == list(range(1, UPDATES + 1))
    assert set(scalars["train/roll_backs"].values()) == {0, 1}


def test_a_spike_is_only_reported_by_default(lab: Lab, tmp_path: Path) -> None:
    printed, _, scalars = run(Case(stage=None, ranks=1), lab, tmp_path / "spike", with_spike)
    assert f"its blocks are global batch {SPIKE}\n" in printed
    assert "resuming" not in printed
    assert scalars["train/loss"][SPIKE + 1] > 2 * scalars["train/loss"][SPIKE]


def run(case: Case, lab: Lab, folder: Path, target, *overrides: str) -> tuple[str, dict, dict]:
    """What rank 0 printed, the weights at the end, and all scalars."""
    folder.mkdir()
    directory, arguments = command(case, lab, folder, *SETTINGS, *overrides)
    with Ranks(target, arguments, ranks_of(case), folder / "logs") as ranks:
        assert set(ranks.wait()) == {0}, ranks.printed()
        printed = ranks.printed()
    weights = {name: parameter.detach() for name, parameter in load_run(directory).model.named_parameters()}
    return printed, weights, read_scalars(directory)


# --- in the ranks ---------------------------------------------------------------------------------------------------


def with_spike(*arguments: str) -> None:
    """The command, whose loss is threefold at the first update that reads global batch `SPIKE`."""

    def build(*args: object) -> nn.Module:
        model, numbers = build_primary(*args), itertools.count()

        def threefold(module: nn.Module, _: tuple, output: tuple) -> tuple:
            factor = 3.0 if module.training and next(numbers) == SPIKE else 1.0
            return output[0] * factor, output[1] * factor

        model.register_forward_hook(threefold)
        return model

    with mock.patch("megamini.training.run.build_primary", build):
        pretrain(*arguments)


def without_the_blocks(*arguments: str) -> None:
    """The command on data that lack the global batches from the checkpoint to the spike."""
    read = TrainingMicroBatches.__getitem__
    left_out = SPIKE + 1 - SAVED_AT

    def shifted(batches: TrainingMicroBatches, number: int):
        return read(batches, number if number < SAVED_AT else number + left_out)

    with mock.patch.object(TrainingMicroBatches, "__getitem__", shifted):
        pretrain(*arguments)

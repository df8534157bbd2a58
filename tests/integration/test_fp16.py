"""fp16, which DeepSpeed runs on a GPU alone: a gradient that overflows under the loss scale moves nothing, Muon's
momentum neither. DeepSpeed is told here that this device knows fp16; the arithmetic is the processor's.
"""

import itertools
import json
import os
from pathlib import Path
from unittest import mock

import pytest
from deepspeed.accelerator import get_accelerator

from megamini.training.engines import deepspeed_config
from megamini.training.engines.deepspeed_engine import DeepSpeedEngine
from megamini.training.engines.engine import StepResult
from tests.integration.cases import UPDATES, Case
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import Ranks, pretrain
from tests.integration.test_bad_steps import command, steps_recorded

pytestmark = pytest.mark.launched

BEFORE = 6  # updates, after which the loss scale is far too large for once


@pytest.mark.parametrize(
    "case",
    [
        Case(stage=1, precision="fp16", muon=True),
        pytest.param(Case(stage=2, precision="fp16", accumulation=4, muon=True), marks=pytest.mark.all_combinations),
        pytest.param(Case(stage=3, precision="fp16", muon=True), marks=pytest.mark.all_combinations),
        pytest.param(Case(stage=2, precision="fp16"), marks=pytest.mark.all_combinations),
    ],
    ids=str,
)
def test_an_overflow_moves_nothing(case: Case, lab: Lab, tmp_path: Path) -> None:
    directory, arguments = command(case, lab, tmp_path)
    with Ranks(pretrain_in_fp16, [str(tmp_path), *arguments], case.ranks, tmp_path / "logs") as ranks:
        assert set(ranks.wait()) == {0}, ranks.printed()
    for rank in range(case.ranks):
        applied, states = zip(*json.loads((tmp_path / f"rank{rank}.json").read_text()), strict=True)
        left_out = [update for update in range(UPDATES) if not applied[update]]
        assert left_out and left_out == list(range(BEFORE, BEFORE + len(left_out))), "until the scale fits again"
        assert len({states[update] for update in (BEFORE - 1, *left_out)}) == 1, "masters, moments, weights stay"
        assert len(set(states)) == UPDATES - len(left_out)
    assert json.loads((directory / "compute.json").read_text())["scaler_overflows"] == len(left_out)
    losses = read_scalars(directory)["train/loss"]
    assert losses[UPDATES] < losses[BEFORE]


# --- in the ranks ---------------------------------------------------------------------------------------------------


def pretrain_in_fp16(folder: str, *arguments: str) -> None:
    """The command, with a loss scale that becomes too large on the way; each update's state goes to `folder`."""
    merge, step, numbers = deepspeed_config.merge, DeepSpeedEngine.step, itertools.count(1)

    def step_and_overdo(engine: DeepSpeedEngine, learning_rate: float) -> StepResult:
        result = step(engine, learning_rate)
        if next(numbers) == BEFORE:
            engine.set_scaler_state({"cur_scale": 2.0**30, "cur_hysteresis": 1})
        return result

    with (
        mock.patch.object(type(get_accelerator()), "is_fp16_supported", lambda self: True),
        mock.patch.object(deepspeed_config, "merge", lambda *values: merge(*values[:-1], on_cpu=False)),
        mock.patch.object(DeepSpeedEngine, "step", step_and_overdo),
        steps_recorded(Path(folder) / f"rank{os.environ['RANK']}.json"),
    ):
        pretrain(*arguments)

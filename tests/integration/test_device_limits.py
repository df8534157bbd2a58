"""Commands on a device that is too small, and what a profiled run leaves."""

import json
from pathlib import Path
from unittest import mock

import pytest
import torch

from megamini.training.engines.plain_engine import PlainEngine
from tests.integration.adapting import Workshop, adapt
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import Ranks, pretrain
from tests.integration.test_bad_steps import command

pytestmark = pytest.mark.launched

MESSAGE = (
    "CUDA out of memory. Tried to allocate 1.25 GiB. GPU 0 has a total capacity of 14.58 GiB of which 8 MiB is free."
)


@pytest.mark.parametrize("stage", [None, 2])
def test_too_large_a_micro_batch_ends_in_a_line(stage: int | None, lab: Lab, tmp_path: Path) -> None:
    case = Case(stage=stage, ranks=1)
    _, arguments = command(case, lab, tmp_path)
    with Ranks(run_short_of_memory, ["pretrain", *arguments], 1 if stage else None, tmp_path / "logs") as running:
        assert running.wait() == [2], running.printed()
    said = running.printed()
    assert "Traceback" not in said
    assert "error: training.micro_batch: 8 blocks of 32 at once, planned at " in said
    assert "1.25 GiB more were asked for, it has 14.58 GiB" in said
    assert "lower training.micro_batch" in said and ("zero3.json" in said) == (stage is not None)


def test_adaptation_too(lab: Lab, tmp_path: Path) -> None:
    path = Workshop(lab, tmp_path).recipe("short", {})
    with Ranks(run_short_of_memory, ["adapt", path], None, tmp_path / "logs") as running:
        assert running.wait() == [2], running.printed()
    assert "error: training.micro_batch: 4 blocks of 32 at once, planned at " in running.printed()


def test_a_profiled_run_leaves_a_trace_and_says_how_long_it_waited(lab: Lab, tmp_path: Path) -> None:
    directory, arguments = command(Case(stage=None, ranks=1), lab, tmp_path)
    with Ranks(pretrain, [*arguments, "training.profile=2"], None, tmp_path / "logs") as running:
        assert running.wait() == [0], running.printed()
    (trace,) = (directory / "profile").glob("*.pt.trace.json*")
    names = [event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"]]
    assert sorted({name for name in names if name.startswith("ProfilerStep")}) == ["ProfilerStep#3", "ProfilerStep#4"]
    shares = read_scalars(directory)["train/waiting_for_data"]
    assert all(0 <= share < 1 for share in shares.values()) and any(shares.values())


# --- in the processes -----------------------------------------------------------------------------------------------


def run_short_of_memory(entry: str, *arguments: str) -> None:
    def fail(*_):
        raise torch.OutOfMemoryError(MESSAGE)

    from megamini.training.engines.deepspeed_engine import DeepSpeedEngine

    with mock.patch.object(PlainEngine, "forward_backward", fail):
        with mock.patch.object(DeepSpeedEngine, "forward_backward", fail):
            {"pretrain": pretrain, "adapt": adapt}[entry](*arguments)

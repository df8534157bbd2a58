"""Adaptation on several ranks, without DeepSpeed: the same packs, and runs that go on with another number of ranks.

And in fp16, for GPUs that have no bf16; the arithmetic is the processor's here.
"""

import itertools
import json
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.relearning import build
from megamini.training.engines import plain_engine
from megamini.training.engines.loss_scale import LossScale
from megamini.training.safety.safe_point import SafePoint
from tests.integration.adapting import UPDATES, Workshop, adapt
from tests.integration.conftest import Lab
from tests.integration.launching import free_port, read_scalars, run_command
from tests.integration.ranks import Ranks, with_other_code_on_rank_1

pytestmark = pytest.mark.launched


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("parallel"))


def largest_difference(one: Path, other: Path) -> float:
    packs = [LanguagePack.load(run / "packs/de") for run in (one, other)]
    matrices, biases = zip(*((pack.token_embeddings, pack.output_bias) for pack in packs), strict=True)
    return max((a - b).abs().max().item() for a, b in (matrices, biases))


def test_two_and_four_ranks_make_the_same_pack_as_one(shop: Workshop) -> None:
    alone = shop.adapted("alone")
    for ranks in (2, 4):
        path = shop.recipe(f"on-{ranks}", {"training.micro_batch": 2, "adaptation.pack_every": "4 updates"})
        said = shop.command(adapt, path, ranks=ranks)
        run = shop.folder / f"on-{ranks}"
        assert f"plain PyTorch, {ranks} ranks on cpu" in said and said.count("language pack: ") == 1
        assert largest_difference(alone, run) < 1e-4
        for name, values in read_scalars(alone).items():
            if name.startswith(("train/loss", "train/grad", "validation/")):
                assert read_scalars(run)[name] == pytest.approx(values, rel=1e-5), name
        ledger = LanguagePack.load(run / "packs/de").details["ledger"]
        assert ledger["ranks"] == ranks and ledger["tokens"] == UPDATES * 8 * 32
        assert sorted(path.name for path in (run / "packs").iterdir()) == [
            "de",
            *(f"de-step-{update:08d}" for update in (0, 4, 8)),
        ]


def test_a_run_goes_on_with_another_number_of_ranks(shop: Workshop) -> None:
    alone = shop.adapted("alone")
    path = shop.recipe("travelling", {"training.micro_batch": 2})
    for ranks, update in ((2, 3), (None, 5), (4, UPDATES)):
        with Ranks(adapt_until, [update, path], ranks, shop.folder / f"logs-{ranks}") as running:
            assert set(running.wait()) == {0}, running.printed()
    assert "from update 5" in running.printed()
    assert largest_difference(alone, shop.folder / "travelling") < 1e-4


def test_under_torchrun(shop: Workshop) -> None:
    """And with probes, which rank 0 makes alone while the others wait."""
    changes = {"training.micro_batch": 2, "adaptation.initialise": "auto", "schedule.duration": "400 updates"}
    path = shop.recipe("torchrun", changes | {"telemetry.every": 100, "telemetry.validate_every": None})
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node=2", f"--master_port={free_port()}"]
    done = run_command([*torchrun, "launch/adapt.py", path], timeout=400)
    assert done.returncode == 0, done.stdout
    assert "probe of" in done.stdout and "plain PyTorch, 2 ranks on cpu" in done.stdout
    assert LanguagePack.load(shop.folder / "torchrun/packs/de").details["ledger"]["ranks"] == 2


def test_ranks_that_stop_by_the_clock_agree_on_it(shop: Workshop) -> None:
    changes = {"adaptation.stop": {"seconds": 1.5}, "schedule.duration": "5000 updates", "training.micro_batch": 2}
    shop.command(adapt, shop.recipe("clock", changes), ranks=2)
    assert 0 < json.loads((shop.folder / "clock/compute.json").read_text())["updates"] < 5000


def test_ranks_that_do_not_divide_the_batch_end_in_a_line(shop: Workshop) -> None:
    with Ranks(adapt, [shop.recipe("three", {})], 3, shop.folder / "logs-three") as running:
        assert set(running.wait()) == {2}, running.printed()
    assert "cannot be divided over 3 ranks" in running.printed()


def test_ranks_of_another_version_end_in_a_line(shop: Workshop) -> None:
    path = shop.recipe("versions", {"training.micro_batch": 2})
    with Ranks(with_other_code_on_rank_1, [adapt, path], 2, shop.folder / "logs-versions") as running:
        assert set(running.wait()) == {2}, running.printed()
    assert re.search(r"rank 1 on .* has another code of megamini than rank 0 on .*: 1, and there 0", running.printed())
    assert not (shop.folder / "versions").exists()


def test_fp16_learns_as_fp32_does_and_leaves_overflows_out(shop: Workshop) -> None:
    exact = shop.adapted("alone")
    with Ranks(adapt_in_fp16, [shop.recipe("half", {"training.precision": "fp16"})], None, shop.folder / "l") as one:
        assert one.wait() == [0], one.printed()
    run = shop.folder / "half"
    ledger = json.loads((run / "compute.json").read_text())
    assert 1 <= ledger["scaler_overflows"] <= 4 and ledger["skipped_updates"] == 0
    matrices = [LanguagePack.load(one / "packs/de").token_embeddings for one in (exact, run)]
    assert (matrices[0] - matrices[1]).abs().mean() < 5e-3, "a step of the optimizer; the first ones are missing"
    losses, own = (read_scalars(one)["train/loss"] for one in (exact, run))
    assert own[UPDATES] == pytest.approx(losses[UPDATES], rel=0.05)
    assert LanguagePack.load(run / "packs/de").token_embeddings.dtype == torch.float32


def test_the_scale_falls_at_once_rises_slowly_and_is_kept() -> None:
    scale = LossScale()
    for finite in (False, *[True] * 999):
        scale.look(finite)
    assert scale.value == 2.0**15
    other = LossScale()
    other.restore(scale.state())
    other.look(True)
    assert other.value == 2.0**16
    other.restore({"cur_scale": 1.0, "cur_hysteresis": 2})  # DeepSpeed's
    other.look(False)
    assert other.value == 1.0


# --- in the ranks ---------------------------------------------------------------------------------------------------


def adapt_until(update: int, path: str) -> None:
    """The command, stopped behind an update as by a signal."""
    state_at = itertools.count(0)  # asked once before the first update
    first = {3: 0, 5: 3}.get(update, 5)
    with mock.patch.object(SafePoint, "stop", lambda self: first + next(state_at) >= update):
        adapt(path)


def adapt_in_fp16(path: str) -> None:
    """The command, as if this processor were a GPU without bf16; the scale is too large at first."""
    scale = LossScale()
    scale.restore({"cur_scale": 2.0**19})
    with (
        mock.patch.object(build, "use_kernels_of"),
        mock.patch.object(plain_engine, "LossScale", lambda: scale),
    ):
        adapt(path)

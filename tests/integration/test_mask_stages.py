"""A mask share that changes along the way: what is masked, what it costs, and what a resumed run makes of it."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from megamini.data.masking import mask_blocks
from megamini.data.order import blocks_at
from megamini.errors import UserError
from megamini.models.build import build_primary
from megamini.recipes.recipe import load_recipe
from megamini.training import run as running
from megamini.training.checkpoints.checkpoint import newest_first
from megamini.training.pretraining import build_setup
from megamini.training.run import pretrain_plain
from megamini.training.safety.spikes import SpikeRule
from tests.integration.cases import BLOCK_LENGTH, GLOBAL_BATCH, LOWERED_AFTER, UPDATES, Case
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.test_resume import WALL_CLOCK, assert_same_tensors

MASKED = {True: 12, False: 4}
"""By hand: round(0.4 x 30) positions in the first stage, and round(0.15 x 30) in the second."""


def recipe(lab: Lab, runs: Path, *overrides: str, lowered: bool = True):
    """A MiniJoint run of 3 layers and an exit, with dropout, in one process."""
    runs.mkdir(exist_ok=True)
    values = Case(stage=None, ranks=1, lowered=lowered).recipe(lab.data(), runs)
    values["model"] |= {"exits": [2], "dropout": 0.1}
    (runs / "recipe.yaml").write_text(yaml.safe_dump({**values, "name": "run"}))
    return load_recipe(runs / "recipe.yaml", overrides)


@pytest.fixture(scope="module")
def finished(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a whole run, with a checkpoint of every update."""
    runs = tmp_path_factory.mktemp("stages")
    pretrain_plain(recipe(lab, runs, "checkpoint.every=1 updates", f"checkpoint.keep_last={UPDATES}"))
    return runs / "run"


def flops_by_hand(masked: int) -> int:
    """Of an update: 3 layers of width 32 and 64, 2 heads over 400 pieces; forward, and twice that for backward."""
    layers = 3 * (2 * BLOCK_LENGTH * (4 * 32 * 32 + 2 * 32 * 64) + 4 * BLOCK_LENGTH**2 * 32)
    heads = 2 * (2 * masked * 32 * 32 + 2 * masked * 32 * 400)
    return GLOBAL_BATCH * 3 * (layers + heads)


def test_the_ledger_knows_each_update_by_its_stage(finished: Path) -> None:
    each = [flops_by_hand(MASKED[update < LOWERED_AFTER]) for update in range(UPDATES)]
    ledger, scalars = json.loads((finished / "compute.json").read_text()), read_scalars(finished)
    assert ledger["flops"] == sum(each) == scalars["compute/flops"][UPDATES]
    assert [scalars["compute/flops"][update] for update in range(1, UPDATES + 1)] == list(itertools.accumulate(each))
    for update, flops in enumerate(each, start=1):  # at a stated peak of 1 TFLOP/s
        rate = scalars["train/tokens_per_second"][update] * flops / (GLOBAL_BATCH * BLOCK_LENGTH)
        assert scalars["train/mfu"][update] * 1e12 == pytest.approx(rate)


def test_the_plan_adds_up_the_stages(lab: Lab, tmp_path: Path) -> None:
    setup = build_setup(recipe(lab, tmp_path), 1)
    total = LOWERED_AFTER * flops_by_hand(12) + (UPDATES - LOWERED_AFTER) * flops_by_hand(4)
    per_token = total / (UPDATES * GLOBAL_BATCH * BLOCK_LENGTH)
    plan = setup.plan()
    assert f"12 positions in every block for {LOWERED_AFTER} updates, then 4 for {UPDATES - LOWERED_AFTER}\n" in plan
    assert f"{per_token:.3g} FLOPs a token, {total:.3g} in all\n" in plan
    high, rising = (
        build_setup(recipe(lab, tmp_path, f"objective.mask_share={share}"), 1).plan()
        for share in ("0.4", f"[{{share: 0.15, until: {LOWERED_AFTER} updates}}, {{share: 0.4}}]")
    )
    assert activations(plan) == activations(high) == activations(rising), "those of the largest stage"
    low = build_setup(recipe(lab, tmp_path, lowered=False), 1).plan()
    assert "4 positions in every block\n" in low
    assert activations(low) != activations(plan)


def activations(plan: str) -> str:
    return next(line for line in plan.splitlines() if "activations" in line)


@pytest.mark.parametrize("ranks, micro_batch", [(1, 8), (2, 2)])
def test_a_batch_is_masked_as_by_a_run_with_the_share_of_its_stage_alone(
    lab: Lab, tmp_path: Path, ranks: int, micro_batch: int
) -> None:
    changes = [f"training.micro_batch={micro_batch}"]
    setup = build_setup(recipe(lab, tmp_path, *changes), ranks)
    of_stage = {
        first: build_setup(recipe(lab, tmp_path, *changes, f"objective.mask_share={share}"), ranks)
        for first, share in ((True, 0.4), (False, 0.15))
    }
    text, steps = setup.text, setup.batches.accumulation
    for rank in range(ranks):
        for number in range((LOWERED_AFTER - 2) * steps, (LOWERED_AFTER + 2) * steps):
            first = number // steps < LOWERED_AFTER
            batch, alone = (one.micro_batches(rank)[number] for one in (setup, of_stage[first]))
            assert batch.labels.shape == (micro_batch * MASKED[first],)
            for mine, other in ((batch.input_ids, alone.input_ids), (batch.positions, alone.positions)):
                assert torch.equal(mine, other)
    # And, without our batches: the first block of the second stage.
    epochs, numbers = blocks_at(np.array([LOWERED_AFTER * GLOBAL_BATCH]), len(text.train), 3)
    assert text.masking.share == 0.15
    masked = mask_blocks(text.train.read(numbers), numbers, epochs, text.masking)
    np.testing.assert_array_equal(setup.micro_batches(0)[LOWERED_AFTER * steps].input_ids[:1], masked.input_ids)


def test_validation_goes_by_the_last_share_all_along(lab: Lab, tmp_path: Path) -> None:
    """Before anything is learned, its loss is that of a run with this share alone, to the last digit."""
    first = {}
    for lowered in (True, False):
        runs = tmp_path / str(lowered)
        changes = ("optimizer.learning_rate=1e-30", "optimizer.weight_decay=0", "telemetry.validate_every=1 updates")
        pretrain_plain(recipe(lab, runs, *changes, lowered=lowered))
        scalars = read_scalars(runs / "run")
        first[lowered] = {name: value for name, value in scalars.items() if name.startswith("validation/loss")}
    assert first[True] == first[False]
    assert len(set(first[True]["validation/loss_unigram"].values())) == 1


@pytest.mark.parametrize("update", [LOWERED_AFTER - 1, LOWERED_AFTER, LOWERED_AFTER + 1])
def test_resumed_around_the_change_equals_uninterrupted(update: int, finished: Path, lab: Lab, tmp_path: Path) -> None:
    """As killed behind the save of that update."""
    shutil.copytree(finished, tmp_path / "run")
    for checkpoint in newest_first(tmp_path / "run/checkpoints"):
        if checkpoint.name > f"step-{update:08d}":
            shutil.rmtree(checkpoint)
    pretrain_plain(recipe(lab, tmp_path, "checkpoint.every=1 updates", f"checkpoint.keep_last={UPDATES}"))
    for name in (f"step-{update + 1:08d}", f"step-{UPDATES:08d}"):
        assert_same_tensors(tmp_path / "run/checkpoints" / name, finished / "checkpoints" / name)
    ours, theirs = (
        {name: values for name, values in read_scalars(folder).items() if name not in WALL_CLOCK}
        for folder in (tmp_path / "run", finished)
    )
    assert ours == theirs
    ledgers = [json.loads((folder / "compute.json").read_text()) for folder in (tmp_path / "run", finished)]
    assert ledgers[0]["flops"] == ledgers[1]["flops"]


def test_a_checkpoint_belongs_to_its_stages(finished: Path, lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for share in ("0.15", f"[{{share: 0.4, until: {LOWERED_AFTER + 1} updates}}, {{share: 0.15}}]"):
        with pytest.raises(
            UserError, match=r"^objective\.mask_share is .* was trained with \[\{'share': 0\.4"
        ) as error:
            pretrain_plain(recipe(lab, tmp_path, f"objective.mask_share={share}"))
        assert "\n" not in str(error.value)


def test_one_share_is_identified_as_ever(lab: Lab, tmp_path: Path) -> None:
    """As in checkpoints of the versions that knew no stages."""
    assert build_setup(recipe(lab, tmp_path, lowered=False), 1).identity()["objective"] == {
        "mask_share": 0.15,
        "replace_with_mask": 0.8,
        "replace_with_random": 0.1,
        "method": "minijoint",
        "head_weights": None,
        "forgetting": None,
    }


def test_losses_are_held_against_those_of_their_stage(lab: Lab, tmp_path: Path, monkeypatch) -> None:
    """Also where a roll-back leaves out the batch in which the stage changes: number 7 of 6 to 8."""
    held: list[tuple[int, int]] = []
    detect = SpikeRule.detect

    def spy(rule, state, loss):
        held.append((state.last_batch, len(state.recent_losses)))
        return detect(rule, state, loss)

    def build(*args):
        model, numbers = build_primary(*args), itertools.count()

        def threefold(module, _, output):
            factor = 3.0 if module.training and next(numbers) == 8 else 1.0
            return output[0] * factor, output[1] * factor

        model.register_forward_hook(threefold)
        return model

    monkeypatch.setattr(SpikeRule, "detect", spy)
    monkeypatch.setattr(running, "build_primary", build)
    pretrain_plain(
        recipe(
            lab,
            tmp_path,
            "objective.mask_share=[{share: 0.15, until: 7 updates}, {share: 0.4, until: 12 updates}, {share: 0.3}]",
            "training.spike={above: 1.0, window: 1, most_roll_backs: 1}",
            "checkpoint.every=6 updates",
        )
    )
    before = [*((batch, min(batch, 1)) for batch in range(7)), (7, 0), (8, 1)]
    behind = [(9, 0), (10, 1), (11, 1), (12, 0), *((batch, 1) for batch in range(13, UPDATES + 3))]
    assert held == before + behind
    paid = sum(flops_by_hand(4 if batch < 7 else 12 if batch < 12 else 9) for batch, _ in held)
    assert json.loads((tmp_path / "run/compute.json").read_text())["flops"] == paid

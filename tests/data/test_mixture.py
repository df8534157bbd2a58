"""Several texts in one run: shares are kept exactly, each text has its own order, and ranks only divide the work."""

import dataclasses

import numpy as np
import pytest
import torch

from megamini.data.batches import TrainingMicroBatches, plan_batches
from megamini.data.masking import MaskSchedule, MaskStage
from megamini.data.mixture import MixedMicroBatches, Shares
from megamini.errors import UserError
from tests.data.test_batches import LENGTH, RULE, MemoryBlocks

SIZES = (40, 25, 13)


class MarkedBlocks(MemoryBlocks):
    """Blocks whose ids say which text they are of."""

    def __init__(self, text, count):
        super().__init__(count)
        self.text = text

    def read(self, numbers):
        return np.where(super().read(numbers) < 9, super().read(numbers), super().read(numbers) // 3 * 3 + self.text)


def micro_batches(weights, global_batch, largest, ranks, rank):
    plan = plan_batches(global_batch, largest, ranks)
    texts = [TrainingMicroBatches(MarkedBlocks(text, size), RULE, plan, rank) for text, size in enumerate(SIZES)]
    return MixedMicroBatches(texts[: len(weights)], Shares(weights, global_batch), plan, rank)


@pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.2, 0.1), (3, 5, 4), (1e6, 1, 1)])
@pytest.mark.parametrize("global_batch", [8, 24, 1024])
def test_shares_are_kept_in_every_batch_and_in_sum(weights, global_batch):
    shares = Shares(weights, global_batch)
    counts = np.array([shares.read_before(batch) for batch in range(200)])
    taken = np.diff(counts, axis=0)
    assert (counts[0] == 0).all()
    assert (taken >= 0).all()
    assert (taken.sum(1) == global_batch).all()
    exact = global_batch * np.array(weights) / sum(weights)
    assert np.abs(taken - exact).max() < len(weights)
    assert np.abs(counts[-1] - 199 * exact).max() < len(weights), "nothing adds up over batches"


def test_far_out_they_are_exact():
    batch = 10**9
    counts = Shares((0.7, 0.3), 2048).read_before(batch)
    assert sum(counts) == 2048 * batch
    assert counts[1] == 2048 * batch * 3 // 10


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match=r"training\.global_batch: 2 blocks are too few for 4 data directories"):
        Shares((1, 1, 1, 1), 2)


def unmasked(batch):
    return batch.input_ids.flatten().scatter(0, batch.positions, batch.labels).view(batch.input_ids.shape)


def blocks_of(weights, global_batch, largest, ranks, updates):
    """Per update the set of (ids, labels) of its blocks, over all ranks."""
    collected = [[] for _ in range(updates)]
    for rank in range(ranks):
        dataset = micro_batches(weights, global_batch, largest, ranks, rank)
        for number in range(updates * dataset.plan.accumulation):
            batch = dataset[number]
            assert len(batch.input_ids) == dataset.plan.micro_batch
            flat = unmasked(batch)
            labels = batch.labels.view(len(flat), -1)
            collected[number // dataset.plan.accumulation] += [
                (row.numpy().tobytes(), label.numpy().tobytes()) for row, label in zip(flat, labels, strict=True)
            ]
    return [sorted(batch) for batch in collected]


@pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.2, 0.1)])
def test_ranks_and_accumulation_only_divide_the_work(weights):
    reference = blocks_of(weights, 24, 24, 1, updates=5)
    assert [len(batch) for batch in reference] == [24] * 5
    for ranks, largest in ((1, 5), (2, 12), (3, 4), (4, 1)):
        assert blocks_of(weights, 24, largest, ranks, updates=5) == reference


def test_each_text_runs_through_its_own_order():
    """One after the other, the blocks of a text are those that a run on it alone reads."""
    weights, dataset = (0.6, 0.4), micro_batches((0.6, 0.4), 10, 10, 1, 0)
    rows = torch.cat([unmasked(dataset[number]) for number in range(12)])
    ordinary = rows.clamp(min=9) == rows  # ids below 9 are the same in all texts
    of_text = [(torch.where(ordinary, rows % 3, text) == text).all(1) for text in range(2)]
    for text, share in enumerate(weights):
        alone = dataset.texts[text].at(np.arange(round(120 * share)), 0)
        assert torch.equal(rows[of_text[text]], unmasked(alone))


def test_a_mask_share_that_changes_does_so_in_all_texts_at_once():
    """With the global batch, not with the blocks that a text has read."""
    schedule = MaskSchedule((MaskStage(0.4, 3), MaskStage(0.15)), LENGTH)
    mixed = micro_batches((0.7, 0.2, 0.1), 10, 5, 1, 0)
    alone = {share: micro_batches((0.7, 0.2, 0.1), 10, 5, 1, 0) for share in (0.4, 0.15)}
    for text in mixed.texts:
        text.schedule = schedule
    for share, datasets in alone.items():
        for text in datasets.texts:
            text.rule = dataclasses.replace(RULE, share=share)
    for number in range(10):
        batch, expected = mixed[number], alone[0.4 if number < 6 else 0.15][number]
        assert torch.equal(batch.positions, expected.positions)
        assert torch.equal(batch.input_ids, expected.input_ids)
        assert batch.labels.numel() == 5 * (7 if number < 6 else 3)

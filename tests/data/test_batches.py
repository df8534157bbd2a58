"""Micro-batches: who computes what, while the global batch stays the same."""

import dataclasses

import numpy as np
import pytest
import torch

from megamini.data.batches import TrainingMicroBatches, plan_batches, training_loader, validation_batches
from megamini.data.masking import MaskingRule, mask_blocks
from megamini.data.order import blocks_at
from megamini.errors import UserError

PAD, LENGTH, VOCAB = 1, 20, 300
RULE = MaskingRule(0.15, 0.8, 0.1, 4, (0, 1, 2, 3, 4), VOCAB, seed=3)


class MemoryBlocks:
    """Stands in for `Blocks`: n random blocks, some of them padded."""

    block_length = LENGTH

    def __init__(self, count, padded=()):
        self.array = np.random.default_rng(0).integers(5, VOCAB, (count, LENGTH))
        self.array[:, 0], self.array[:, -1] = 0, 2
        self.padded = list(padded)
        for row in padded:
            self.array[row, 10], self.array[row, 11:] = 2, PAD

    def __len__(self):
        return len(self.array)

    def read(self, numbers):
        return self.array[numbers]

    def lengths(self, numbers):
        return np.where(np.isin(numbers, self.padded), 11, LENGTH)


@pytest.mark.parametrize(
    "global_batch, largest, ranks, micro_batch, accumulation",
    [(32, 8, 1, 8, 4), (32, 8, 2, 8, 2), (32, 100, 4, 8, 1), (30, 8, 1, 6, 5), (14, 4, 2, 1, 7), (3, 1, 3, 1, 1)],
)
def test_the_fewest_accumulation_steps_that_fit(global_batch, largest, ranks, micro_batch, accumulation):
    plan = plan_batches(global_batch, largest, ranks)
    assert (plan.micro_batch, plan.accumulation) == (micro_batch, accumulation)
    assert plan.micro_batch * plan.accumulation * plan.world_size == global_batch
    fewer = [n for n in range(1, accumulation) if global_batch // ranks % n == 0]
    assert all(global_batch // ranks // n > largest for n in fewer)


@pytest.mark.parametrize(
    "global_batch, ranks, sizes, near_ranks",
    [(32, 6, "30 or 36", "4 or 8"), (100, 3, "99 or 102", "2 or 4"), (2, 5, "5", "1 or 2")],
)
def test_ranks_that_do_not_divide_are_refused_with_the_nearest_sizes(global_batch, ranks, sizes, near_ranks):
    with pytest.raises(UserError) as error:
        plan_batches(global_batch, 8, ranks)
    assert str(error.value) == (
        f"training.global_batch: {global_batch} blocks cannot be divided over {ranks} ranks; use a global batch of "
        f"{sizes}, or {near_ranks} ranks"
    )


def global_batches(ranks, largest, updates, workers=0):
    """Per update the set of (input_ids, labels) of its blocks, over all ranks and accumulation steps."""
    plan, blocks = plan_batches(24, largest, ranks), MemoryBlocks(40)
    collected = [[] for _ in range(updates)]
    for rank in range(ranks):
        loader = training_loader(TrainingMicroBatches(blocks, RULE, plan, rank), 0, updates, workers, False)
        for number, batch in enumerate(loader):
            ids, labels = batch.input_ids.numpy(), batch.labels.numpy().reshape(plan.micro_batch, -1)
            collected[number // plan.accumulation] += [
                (row.tobytes(), label.tobytes()) for row, label in zip(ids, labels, strict=True)
            ]
    return [sorted(batch) for batch in collected]


def test_a_global_batch_is_the_same_for_any_ranks_and_accumulation():
    reference = global_batches(ranks=1, largest=24, updates=4)
    assert [len(batch) for batch in reference] == [24] * 4
    assert reference[0] != reference[1]
    for ranks, largest in ((1, 5), (2, 24), (3, 4), (4, 1), (24, 24)):
        assert global_batches(ranks, largest, updates=4) == reference


def test_what_a_batch_holds():
    plan, blocks = plan_batches(8, 2, 2), MemoryBlocks(10)
    batch = TrainingMicroBatches(blocks, RULE, plan, rank=1)[3]  # second accumulation step of update 1
    start = 8 + 1 * 4 + 1 * 2
    epochs, numbers = blocks_at(np.arange(start, start + 2), 10, RULE.seed)
    assert set(epochs) == {1}
    masked = mask_blocks(blocks.read(numbers), numbers, epochs, RULE)
    np.testing.assert_array_equal(batch.input_ids, masked.input_ids)
    np.testing.assert_array_equal(batch.labels, masked.labels.ravel())
    flat = torch.from_numpy(blocks.read(numbers)).flatten()
    assert torch.equal(flat[batch.positions], batch.labels)
    assert batch.weights is None and batch.attention_mask is None


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing_and_a_start_at_update_k_skips_k(workers):
    dataset = TrainingMicroBatches(MemoryBlocks(40), RULE, plan_batches(12, 3, 2), rank=1)
    whole = list(training_loader(dataset, 0, 6, 0, False))
    later = list(training_loader(dataset, 4, 6, workers, False))
    assert (len(whole), len(later)) == (12, 4)
    for one, other in zip(whole[8:], later, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize(
    "count, most, micro_batch, ranks", [(50, 1000, 4, 3), (50, 20, 4, 1), (5, 9, 4, 4), (48, 48, 4, 3)]
)
def test_validation_counts_each_block_once_over_the_ranks(count, most, micro_batch, ranks):
    blocks = MemoryBlocks(count)
    parts = [list(validation_batches(blocks, RULE, most, micro_batch, rank, ranks)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    per_block = RULE.masked_per_block(LENGTH)
    seen = []
    for batch in (batch for part in parts for batch in part):
        weights = batch.weights.view(micro_batch, per_block)
        restored = batch.input_ids.flatten().scatter(0, batch.positions, batch.labels).view(micro_batch, LENGTH)
        for row, weight in zip(restored.numpy(), weights, strict=True):
            assert weight.unique().numel() == 1, "a block of full length counts whole or not at all"
            if weight[0]:
                seen.append(int(np.flatnonzero((blocks.array == row).all(1))[0]))
    assert len(seen) == len(set(seen)) == min(count, most)
    if most < count:
        assert max(seen) >= count * (most - 1) // most, "spread over the whole split"


def test_validation_is_one_fixed_draw_for_any_ranks():
    def draw(ranks, micro_batch):
        labels = []
        for rank in range(ranks):
            for batch in validation_batches(MemoryBlocks(30, padded=[29]), RULE, 30, micro_batch, rank, ranks):
                labels += batch.labels[batch.weights == 1].tolist()
        return sorted(labels)

    assert draw(1, 30) == draw(2, 4) == draw(5, 2)


def test_an_attention_mask_only_where_a_block_is_padded():
    blocks = MemoryBlocks(12, padded=[9])
    batches = list(validation_batches(blocks, RULE, 12, 4, 0, 1))
    assert [batch.attention_mask is None for batch in batches] == [True, True, False]
    mask = batches[2].attention_mask
    np.testing.assert_array_equal(mask.numpy(), blocks.array[8:12] != PAD)
    counted = batches[2].positions[batches[2].weights == 1]
    assert (mask.flatten()[counted] == 1).all(), "no pad is predicted"


def test_a_batch_moves_whole():
    batch = next(validation_batches(MemoryBlocks(4, padded=[0]), RULE, 4, 4, 0, 1)).to(torch.device("meta"))
    assert all(getattr(batch, field.name).device.type == "meta" for field in dataclasses.fields(batch))

"""What a decoder predicts of a block: by hand, with pads and separators, and in batches for any number of ranks."""

import numpy as np
import pytest
import torch

from megamini.data.batches import TrainingMicroBatches, joined, plan_batches, validation_batches
from megamini.data.next_token import NextTokenRule, NextTokenSchedule
from tests.data.test_batches import LENGTH, PAD, MemoryBlocks

BOS, EOS = 0, 2
TEXT, ALL = (NextTokenRule(EOS, separators, seed=3) for separators in (False, True))


def test_a_block_by_hand():
    blocks = np.array([[BOS, 5, 6, EOS, 7, 8, EOS], [BOS, 9, 6, EOS, EOS, PAD, PAD]], np.uint16)
    found = ALL.predict(blocks, np.arange(2), np.zeros(2), lengths=np.array([7, 5]))
    assert found.positions.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert found.labels.tolist() == [[5, 6, EOS, 7, 8], [9, 6, EOS, EOS, PAD]]
    assert found.weights.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], "neither the block's end nor its pads"
    assert (found.input_ids == blocks).all() and found.input_ids.dtype == np.int64
    found = TEXT.predict(blocks, np.arange(2), np.zeros(2), lengths=np.array([7, 5]))
    assert found.weights.tolist() == [[1, 1, 0, 1, 1], [1, 1, 0, 0, 0]]


def test_pads_are_known_by_the_length_alone():
    """In many tokenizers of decoders the token behind a text is the pad too."""
    blocks = np.array([[EOS, 5, EOS, 6, EOS, EOS, EOS]])
    assert ALL.predict(blocks, np.arange(1), np.zeros(1), np.array([5])).weights.tolist() == [[1, 1, 1, 0, 0]]


def test_every_block_has_the_same_count_in_every_batch():
    schedule = NextTokenSchedule(LENGTH)
    assert schedule.most_masked == schedule.masked(0) == schedule.masked(10**6) == LENGTH - 2
    assert schedule.along(7) == [(7, LENGTH - 2)]


@pytest.mark.parametrize("rule", [ALL, TEXT])
@pytest.mark.parametrize("ranks, largest", [(1, 8), (2, 2), (4, 1)])
def test_who_computes_what_changes_nothing(rule, ranks, largest):
    blocks = MemoryBlocks(12)
    blocks.array[::2, 5] = EOS

    def rows(ranks, largest):
        plan = plan_batches(8, largest, ranks)
        found = []
        for rank in range(ranks):
            batches = TrainingMicroBatches(blocks, rule, plan, rank)
            for number in range(2 * plan.accumulation):
                batch = batches[number]
                weights = torch.ones(len(batch.labels)) if batch.weights is None else batch.weights
                seen = batch.input_ids.flatten()
                assert torch.equal(seen[batch.positions + 1], batch.labels)
                each = zip(
                    batch.input_ids, batch.labels.view(-1, LENGTH - 2), weights.view(-1, LENGTH - 2), strict=True
                )
                found += [(tuple(i.tolist()), tuple(y.tolist()), tuple(w.tolist())) for i, y, w in each]
        return sorted(found)

    assert rows(ranks, largest) == rows(1, 8)


def test_blocks_weigh_alike_whatever_counts_in_them():
    blocks = MemoryBlocks(4)
    blocks.array[1, 3:6] = EOS
    batch = TrainingMicroBatches(blocks, TEXT, plan_batches(4, 4, 1), 0)[0]
    weights = batch.weights.view(4, -1)
    torch.testing.assert_close(weights.sum(1), torch.full((4,), LENGTH - 2.0))
    assert (weights == 0).sum() == 3 == (batch.labels == EOS).sum()
    assert TrainingMicroBatches(blocks, ALL, plan_batches(4, 4, 1), 0)[0].weights is None
    both = joined([batch, batch])
    assert torch.equal(both.weights, batch.weights.repeat(2))


def test_validation_counts_each_token_once():
    blocks = MemoryBlocks(5, padded=[4])
    blocks.array[0, 4] = EOS
    counted = {}
    for rule in (ALL, TEXT):
        batches = [b for r in range(2) for b in validation_batches(blocks, rule, 5, 2, r, 2)]
        counted[rule.predict_separators] = sum(batch.weights.sum().item() for batch in batches)
        assert any(batch.attention_mask is not None for batch in batches)
    assert counted == {True: 4 * (LENGTH - 2) + 9, False: 4 * (LENGTH - 2) + 9 - 1}

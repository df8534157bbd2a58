"""Masks: how many, where, what is shown, and nothing but (seed, epoch, block) decides."""

import dataclasses

import numpy as np
import pytest

from megamini.data.masking import MaskingRule, mask_blocks

BOS, PAD, EOS, UNK, MASK = range(5)
LENGTH, VOCAB = 66, 500
RULE = MaskingRule(0.15, 0.8, 0.1, MASK, (BOS, PAD, EOS, UNK, MASK), VOCAB, seed=3)


def make_blocks(count, seed=0):
    blocks = np.random.default_rng(seed).integers(5, VOCAB, (count, LENGTH)).astype(np.uint16)
    blocks[:, 0], blocks[:, -1] = BOS, EOS
    return blocks


def mask(blocks, numbers=None, epoch=0, rule=RULE, lengths=None):
    numbers = np.arange(len(blocks)) if numbers is None else np.asarray(numbers)
    return mask_blocks(blocks, numbers, np.full(len(blocks), epoch), rule, lengths)


def assert_same(one, other):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


@pytest.mark.parametrize("share, expected", [(0.15, 10), (0.3, 19), (0.4, 26), (0.001, 1)])
def test_every_full_block_predicts_the_same_number(share, expected):
    blocks = make_blocks(50)
    blocks[7, 1:39] = UNK  # 26 others are left, just enough
    masked = mask(blocks, rule=dataclasses.replace(RULE, share=share))
    assert masked.positions.shape == (50, expected)
    assert (np.diff(masked.positions, axis=1) > 0).all()
    assert (masked.weights == 1).all()


def test_labels_are_the_originals_never_special_and_the_rest_is_untouched():
    blocks = make_blocks(300)
    blocks[:, 20:40:3] = UNK
    masked = mask(blocks)
    np.testing.assert_array_equal(masked.labels, np.take_along_axis(blocks, masked.positions, 1))
    assert not np.isin(masked.labels, RULE.special_ids).any()
    restored = masked.input_ids.copy()
    np.put_along_axis(restored, masked.positions, masked.labels, 1)
    np.testing.assert_array_equal(restored, blocks)
    assert masked.input_ids.dtype == masked.labels.dtype == np.int64


@pytest.mark.parametrize("as_mask, as_random", [(0.8, 0.1), (0.5, 0.3), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_shares_of_what_is_shown(as_mask, as_random):
    rule = dataclasses.replace(RULE, replace_with_mask=as_mask, replace_with_random=as_random)
    masked = mask(make_blocks(20_000), rule=rule)
    shown = np.take_along_axis(masked.input_ids, masked.positions, 1)
    n = shown.size

    def near(found, share):
        return abs(found - share) <= 5 * np.sqrt(share * (1 - share) / n)

    assert near((shown == MASK).mean(), as_mask)
    # A random token is now and then the original.
    assert near(((shown != MASK) & (shown != masked.labels)).mean(), as_random * (1 - 1 / (VOCAB - 5)))


def test_random_tokens_are_ordinary_and_even():
    rule = dataclasses.replace(RULE, replace_with_mask=0.0, replace_with_random=1.0, special_ids=(0, 1, 2, 3, 4, 77))
    masked = mask(make_blocks(10_000), rule=rule)
    shown = np.take_along_axis(masked.input_ids, masked.positions, 1)
    counts = np.bincount(shown.ravel(), minlength=VOCAB)
    assert len(counts) == VOCAB and (counts[list(rule.special_ids)] == 0).all()
    ordinary = np.delete(counts, rule.special_ids)
    expected = shown.size / len(ordinary)
    degrees = len(ordinary) - 1
    assert abs(((ordinary - expected) ** 2).sum() / expected - degrees) < 5 * np.sqrt(2 * degrees)


def test_positions_are_even_over_the_block():
    masked = mask(make_blocks(20_000))
    counts = np.bincount(masked.positions.ravel(), minlength=LENGTH)
    assert counts[0] == counts[-1] == 0
    share = masked.positions.shape[1] / (LENGTH - 2)
    sigma = np.sqrt(20_000 * share * (1 - share))
    assert np.abs(counts[1:-1] - 20_000 * share).max() < 5 * sigma


def test_action_and_position_are_independent():
    masked = mask(make_blocks(20_000))
    shown = np.take_along_axis(masked.input_ids, masked.positions, 1) == MASK
    early = masked.positions < LENGTH // 2
    n = min(early.sum(), (~early).sum())
    assert abs(shown[early].mean() - shown[~early].mean()) < 5 * np.sqrt(2 * 0.8 * 0.2 / n)


def test_a_padded_block_predicts_its_own_share():
    blocks = make_blocks(4)
    for row, content in enumerate((30, 10, 2)):  # the last one is full
        blocks[row, content + 1] = EOS
        blocks[row, content + 2 :] = PAD
    masked = mask(blocks, lengths=np.array([32, 12, 4, LENGTH]))
    np.testing.assert_array_equal(masked.weights.sum(1), [round(0.15 * 30), round(0.15 * 10), 1, 10])
    counted = masked.weights == 1
    assert not np.isin(masked.labels[counted], RULE.special_ids).any()
    # What only fills up is shown as it is, and inside of the block.
    shown = np.take_along_axis(masked.input_ids, masked.positions, 1)
    np.testing.assert_array_equal(shown[~counted], masked.labels[~counted])
    assert (masked.input_ids[blocks == PAD] == PAD).all()


def test_a_padded_block_without_text_predicts_nothing():
    block = np.full((1, LENGTH), PAD, dtype=np.uint16)
    block[0, :2] = BOS, EOS
    masked = mask(block, lengths=np.array([2]))
    assert (masked.weights == 0).all()
    np.testing.assert_array_equal(masked.input_ids, block)


def test_a_block_is_masked_the_same_alone_together_and_in_any_order():
    blocks, numbers = make_blocks(40), np.arange(40) * 10**9
    together = mask(blocks, numbers)
    shuffled = np.random.default_rng(1).permutation(40)
    assert_same(mask(blocks[shuffled], numbers[shuffled]), _rows(together, shuffled))
    for row in (0, 17, 39):
        assert_same(mask(blocks[[row]], numbers[[row]]), _rows(together, [row]))
    assert_same(mask(blocks, numbers), together)


def test_epochs_within_a_batch_are_each_their_own():
    blocks, numbers, epochs = make_blocks(10), np.arange(10), np.arange(10) % 3
    mixed = mask_blocks(blocks, numbers, epochs, RULE)
    for epoch in range(3):
        assert_same(_rows(mixed, epochs == epoch), mask(blocks[epochs == epoch], numbers[epochs == epoch], epoch))


@pytest.mark.parametrize(
    "change", [{"epoch": 1}, {"numbers": np.arange(200) + 200}, {"rule": dataclasses.replace(RULE, seed=4)}]
)
def test_another_epoch_block_or_seed_is_another_mask(change):
    blocks = np.repeat(make_blocks(1), 200, axis=0)
    one, other = mask(blocks), mask(blocks, **change)
    # By chance two masks share 10 x 10 / 64 positions.
    shared = [len(np.intersect1d(a, b)) for a, b in zip(one.positions, other.positions, strict=True)]
    assert 1.2 < np.mean(shared) < 1.95


def _rows(masked, rows):
    return type(masked)(*(getattr(masked, field.name)[rows] for field in dataclasses.fields(masked)))

"""The order of blocks: a permutation, evaluated anywhere, that seeds and epochs change."""

import time

import numpy as np
import pytest

from megamini.data.order import blocks_of_order, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000, 10**6])
@pytest.mark.parametrize("seed, epoch", [(0, 0), (3, 7), (2**63, 2**62)])
def test_every_block_once_an_epoch(size, seed, epoch):
    order = permute(np.arange(size), size, seed, epoch)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(order, minlength=size), np.ones(size))


def test_a_billion_blocks_no_collision_and_no_pattern():
    size, buckets, sample = 10**9, 1000, 10**6
    positions = np.arange(size - sample, size)  # neighbours, which a weak permutation keeps near each other
    order = permute(positions, size, seed=1, epoch=2)
    assert order.min() >= 0 and order.max() < size
    assert len(np.unique(order)) == sample
    # Chi-square of 1,000 buckets: mean 999, standard deviation 45.
    counts = np.bincount(order * buckets // size, minlength=buckets)
    assert abs(((counts - sample / buckets) ** 2).sum() / (sample / buckets) - 999) < 5 * 45
    distances = np.diff(order) % size * buckets // size
    counts = np.bincount(distances, minlength=buckets)
    assert abs(((counts - sample / buckets) ** 2).sum() / (sample / buckets) - 999) < 5 * 45


def test_the_inverse_is_spread_evenly():
    """Blocks of one stretch of the corpus come up all over the epoch."""
    size, buckets = 10**6, 100
    inverse = np.empty(size, np.int64)
    inverse[permute(np.arange(size), size, seed=5, epoch=0)] = np.arange(size)
    for start in range(0, size, 100_000):
        counts = np.bincount(inverse[start : start + 10_000] * buckets // size, minlength=buckets)
        assert ((counts - 100) ** 2).sum() / 100 < 99 + 5 * 14.1


@pytest.mark.parametrize("size", [7, 1000, 10**5])
def test_orders_of_seeds_and_epochs_share_places_by_chance_only(size):
    """Two random permutations agree in one place on average, whatever their size."""
    orders = [permute(np.arange(size), size, seed, epoch) for seed in range(4) for epoch in range(5)]
    shared = [(a == b).sum() for i, a in enumerate(orders) for b in orders[:i]]
    assert 0.6 < np.mean(shared) < 1.4
    assert max(shared) < size


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_one_epoch_a_position_equals_each_epoch_alone(size):
    epochs, blocks = blocks_of_order(0, 5 * size, size, seed=9)
    np.testing.assert_array_equal(epochs, np.repeat(np.arange(5), size))
    for epoch in range(5):
        np.testing.assert_array_equal(blocks[epochs == epoch], permute(np.arange(size), size, 9, epoch))


def test_a_stretch_of_the_order_is_the_same_however_it_is_cut():
    _, whole = blocks_of_order(0, 3000, 1000, seed=4)
    parts = [blocks_of_order(start, start + 7, 1000, seed=4)[1] for start in range(0, 2996, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[: 7 * len(parts)])


def test_a_batch_costs_the_same_at_any_size():
    def seconds(size):
        times = []
        for repeat in range(30):
            start = time.process_time()
            blocks_of_order(repeat * 256, (repeat + 1) * 256, size, seed=0)
            times.append(time.process_time() - start)
        return np.median(times)

    # A permutation of 10^12 numbers that were stored could not be made at all.
    assert seconds(10**12) < 10 * seconds(10**3) + 1e-3


def test_positions_are_not_changed_in_place():
    positions = np.arange(100)
    permute(positions, 100, 0, 0)
    np.testing.assert_array_equal(positions, np.arange(100))

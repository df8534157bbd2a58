"""The order of blocks: a permutation, evaluated anywhere, that seeds and epochs change."""

import time

import numpy as np
import pytest

from megamini.data.order import RunOrder, blocks_at, permute


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
    epochs, blocks = blocks_at(np.arange(0, 5 * size), size, seed=9)
    np.testing.assert_array_equal(epochs, np.repeat(np.arange(5), size))
    for epoch in range(5):
        np.testing.assert_array_equal(blocks[epochs == epoch], permute(np.arange(size), size, 9, epoch))


def test_a_stretch_of_the_order_is_the_same_however_it_is_cut():
    _, whole = blocks_at(np.arange(0, 3000), 1000, seed=4)
    parts = [blocks_at(np.arange(start, start + 7), 1000, seed=4)[1] for start in range(0, 2996, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[: 7 * len(parts)])


def test_a_batch_costs_the_same_at_any_size():
    def seconds(size):
        times = []
        for repeat in range(30):
            start = time.process_time()
            blocks_at(np.arange(repeat * 256, (repeat + 1) * 256), size, seed=0)
            times.append(time.process_time() - start)
        return np.median(times)

    # A permutation of 10^12 numbers that were stored could not be made at all.
    assert seconds(10**12) < 10 * seconds(10**3) + 1e-3


def test_positions_are_not_changed_in_place():
    positions = np.arange(100)
    permute(positions, 100, 0, 0)
    np.testing.assert_array_equal(positions, np.arange(100))


# --- runs -------------------------------------------------------------------------------------------------------------

RUNS = RunOrder(streams=24, run=8)
SIZES = (1, 100, 191, 192, 193, 24 * 8 * 2, 5000, 5003)


@pytest.mark.parametrize("size", SIZES)
def test_runs_hold_every_block_once_an_epoch(size):
    epochs, blocks = RUNS.blocks_at(np.arange(3 * size), size, seed=9)
    np.testing.assert_array_equal(epochs, np.repeat(np.arange(3), size))
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(blocks[epochs == epoch]), np.arange(size))
    if size > 1:
        assert (blocks[:size] != blocks[size : 2 * size]).any()


@pytest.mark.parametrize("size", SIZES)
def test_a_position_of_runs_is_the_same_however_it_is_asked_for(size):
    positions = np.random.default_rng(0).integers(0, 4 * size, 500)
    _, together = RUNS.blocks_at(positions, size, seed=2)
    alone = [int(RUNS.blocks_at(np.array([one]), size, seed=2)[1][0]) for one in positions[:60]]
    assert together[:60].tolist() == alone


def test_a_corpus_smaller_than_a_run_of_every_stream_is_in_the_order_of_single_blocks():
    positions = np.arange(3 * 191)
    for one, other in zip(RUNS.blocks_at(positions, 191, 5), blocks_at(positions, 191, 5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_blocks_of_a_batch_are_of_as_many_runs_and_a_stream_stays_in_its_run():
    """So a rank, which has its own streams, reads each of its runs once."""
    size = 50_000
    _, blocks = RUNS.blocks_at(np.arange(40 * 24), size, seed=1)
    runs = (blocks // 8).reshape(40, 24)
    assert all(len(set(batch)) == 24 for batch in runs.tolist())
    for start in range(0, 40, 8):
        assert all(len(set(stream)) == 1 for stream in runs[start : start + 8].T.tolist())
    assert len(set(runs.ravel().tolist())) == 40 // 8 * 24
    places = blocks.reshape(5, 8, 24) % 8
    assert len({tuple(places[:, :, stream].ravel()) for stream in range(24)}) == 24, "each run in its own order"


def test_runs_are_spread_over_the_corpus_and_over_the_epoch():
    size = 10**9
    _, blocks = RunOrder(256, 64).blocks_at(np.arange(10**6) * 997, size, seed=3)
    counts = np.bincount(blocks * 100 // size, minlength=100)
    assert ((counts - 10**4) ** 2).sum() / 10**4 < 149, "chi-square with 99 degrees of freedom, p = 0.001"
    assert len(np.unique(blocks)) == 10**6


def test_length_of_a_run():
    assert RunOrder.of(256, 1024) == RunOrder(256, 256)
    assert RunOrder.of(2048, 1024).run == 32
    assert RunOrder.of(2**20, 4096).run == 8
    assert RunOrder.of(8, 64).run == 256

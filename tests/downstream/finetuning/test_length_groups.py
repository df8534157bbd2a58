"""Inputs of about equal length share an update; every input is seen once an epoch, and a seed decides the order."""

import random

import pytest

from megamini.downstream.finetuning.length_groups import LengthGroups

LENGTHS = random.Random(0).choices(range(5, 128), weights=[1 / n for n in range(5, 128)], k=1003)


def order(lengths=LENGTHS, seed=0, epoch=0, batch=32):
    groups = LengthGroups(lengths, batch, seed)
    groups.set_epoch(epoch)
    return list(groups)


def padded(numbers, batch=32):
    """Tokens of an epoch, with padding."""
    updates = [numbers[place : place + batch] for place in range(0, len(numbers), batch)]
    return sum(len(update) * max(LENGTHS[one] for one in update) for update in updates)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 512, 513, 1003])
def test_every_input_once_an_epoch(count):
    assert sorted(order(LENGTHS[:count])) == list(range(count))


def test_an_order_for_each_seed_and_epoch_and_the_same_again():
    orders = [order(seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert order(seed=1, epoch=1) == orders[3]


def test_little_is_padded():
    by_chance = random.Random(0).sample(range(len(LENGTHS)), len(LENGTHS))
    assert sum(LENGTHS) < padded(order()) < 1.2 * sum(LENGTHS) < 2 * sum(LENGTHS) < padded(by_chance)


def test_long_and_short_updates_come_in_random_order():
    numbers = order()
    means = [sum(LENGTHS[one] for one in numbers[place : place + 32]) / 32 for place in range(0, 992, 32)]
    first, second = sum(means[:15]) / 15, sum(means[15:30]) / 15
    assert means != sorted(means, reverse=True) and 0.6 < first / second < 1.7


def test_the_update_that_is_not_full_is_the_last():
    assert len(order()) % 32 == 11  # so the others are cut as they were sorted
    numbers = order()
    spread = [
        max(LENGTHS[one] for one in numbers[place : place + 32])
        - min(LENGTHS[one] for one in numbers[place : place + 32])
        for place in range(0, 992, 32)
    ]
    assert sorted(spread)[len(spread) // 2] <= 8

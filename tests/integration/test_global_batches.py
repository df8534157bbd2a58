"""1, 2 and 4 ranks see the same global batches, whatever the micro-batch and the number of loader workers."""

from collections import Counter
from dataclasses import replace

import pytest

from megamini.data.batches import TrainingMicroBatches, plan_batches, training_loader
from megamini.data.blocks import Blocks
from megamini.data.tokenizer import load_tokenizer
from tests.integration.conftest import Lab
from tests.integration.reference import masking_rule

GLOBAL_BATCH = 8


@pytest.fixture(scope="module")
def expected(lab: Lab) -> list[Counter]:
    """What one rank without accumulation and workers sees."""
    return global_batches(lab, ranks=1, micro_batch=GLOBAL_BATCH, workers=0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 1), (1, 4), (2, 4), (2, 1), (4, 2), (4, 1), (8, 1)])
def test_global_batches_do_not_depend_on_ranks(
    lab: Lab, expected: list[Counter], ranks: int, micro_batch: int, workers: int
) -> None:
    assert global_batches(lab, ranks, micro_batch, workers) == expected


def test_the_updates_compared_cross_the_end_of_an_epoch(lab: Lab, expected: list[Counter]) -> None:
    blocks, (first, last) = len(Blocks(str(lab.data()), "train")), updates(lab)
    assert first * GLOBAL_BATCH < blocks < last * GLOBAL_BATCH
    assert all(batch.total() == GLOBAL_BATCH for batch in expected)
    assert len({row for batch in expected for row in batch}) == (last - first) * GLOBAL_BATCH  # no two are alike


def test_another_seed_makes_other_batches(lab: Lab, expected: list[Counter]) -> None:
    others = global_batches(lab, ranks=1, micro_batch=GLOBAL_BATCH, workers=0, seed=4)
    assert all(other != batch for other, batch in zip(others, expected, strict=True))


def global_batches(lab: Lab, ranks: int, micro_batch: int, workers: int, seed: int = 3) -> list[Counter]:
    """Of each update around the end of an epoch, the rows (input ids, predicted positions, labels) of all ranks."""
    blocks = Blocks(str(lab.data()), "train")
    rule = replace(masking_rule(load_tokenizer(str(lab.data()))), seed=seed)
    plan = plan_batches(GLOBAL_BATCH, micro_batch, ranks)
    assert plan.micro_batch == micro_batch
    first, last = updates(lab)
    seen = [Counter() for _ in range(first, last)]
    for rank in range(ranks):
        dataset = TrainingMicroBatches(blocks, rule, plan, rank)
        for number, batch in enumerate(training_loader(dataset, first, last, workers, pin_memory=False)):
            starts = range(0, micro_batch * blocks.block_length, blocks.block_length)
            for row, start, positions, labels in zip(
                batch.input_ids.tolist(),
                starts,
                batch.positions.view(micro_batch, -1),
                batch.labels.view(micro_batch, -1).tolist(),
                strict=True,
            ):
                key = (tuple(row), tuple((positions - start).tolist()), tuple(labels))
                seen[number // plan.accumulation][key] += 1
    return seen


def updates(lab: Lab) -> tuple[int, int]:
    """Three updates before the end of the first epoch to three behind it."""
    end = len(Blocks(str(lab.data()), "train")) // GLOBAL_BATCH
    return end - 3, end + 4

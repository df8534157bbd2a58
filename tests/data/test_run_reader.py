"""Blocks read by runs: the same blocks, with far fewer reads, over shards and ranks; and old runs keep their order."""

import os
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from megamini.data import blocks as module
from megamini.data.batches import TrainingMicroBatches, plan_batches, training_loader
from megamini.data.blocks import FORMAT, Blocks, BlockWriter, Frame
from megamini.data.masking import MaskingRule
from megamini.data.order import RunOrder
from megamini.data.run_reader import RunReader
from megamini.files import fingerprint_of, write_json

FRAME = Frame(block_length=16, vocab_size=1000, bos=0, eos=2, pad=1)
RULE = MaskingRule(0.15, 0.8, 0.1, mask_id=4, special_ids=(0, 1, 2, 4), vocab_size=1000, seed=0)
SIZE, ORDER = 5003, RunOrder(streams=24, run=8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and record batches whose ends lie within runs."""
    folder = tmp_path_factory.mktemp("data")
    with mock.patch.multiple(module, SHARD_BLOCKS=1500, BATCH_BLOCKS=300):
        writer = BlockWriter(folder / "train", FRAME, lambda blocks: None)
        writer.append(np.random.default_rng(0).integers(5, 1000, SIZE * FRAME.content))
        writer.drain()
        shards = [{**entry, "file": f"train/{entry['file']}"} for entry in writer.close()]
    assert len(shards) > 2
    content = {"format": FORMAT, "block_length": 16, "vocab_size": 1000, "splits": {"train": {"shards": shards}}}
    write_json(folder / "manifest.json", {**content, "fingerprint": fingerprint_of(content)})
    return folder


def test_runs_are_the_blocks_read_alone(directory: Path) -> None:
    blocks = Blocks(directory, "train")
    reader = RunReader(blocks, ORDER)
    for indices in (np.arange(SIZE), np.random.default_rng(1).integers(0, SIZE, 3000)):
        np.testing.assert_array_equal(reader.read(indices), blocks.read(indices))
    np.testing.assert_array_equal(blocks.read_run(1490, 1510), blocks.read(np.arange(1490, 1510)))


def batches(directory: Path, ranks: int, updates: range, workers: int = 0) -> list[list]:
    """Of each update, its blocks on all ranks."""
    plan, blocks = plan_batches(24, 6, ranks), Blocks(directory, "train")
    found = [[] for _ in updates]
    for rank in range(ranks):
        dataset = TrainingMicroBatches(blocks, RULE, plan, rank, order=ORDER)
        loader = training_loader(dataset, updates.start, updates.stop, workers, False)
        for number, batch in enumerate(loader):
            rows = zip(batch.input_ids.tolist(), batch.labels.view(plan.micro_batch, -1).tolist(), strict=True)
            found[number // plan.accumulation] += [(tuple(ids), tuple(labels)) for ids, labels in rows]
    return [sorted(update) for update in found]


def test_any_ranks_workers_and_starting_points_give_the_same_batches(directory: Path) -> None:
    end = SIZE // 24
    whole = batches(directory, 1, range(end - 12, end + 6))
    for ranks, workers in ((2, 0), (4, 1), (24, 0)):
        assert batches(directory, ranks, range(end - 12, end + 6), workers) == whole
    assert batches(directory, 3, range(end - 5, end + 6)) == whole[7:], "resumed"


def test_each_rank_reads_a_run_of_its_streams_once(directory: Path) -> None:
    """And so reads the corpus once in all; a block at a time, it takes 24 reads an update."""
    updates, reads, pread = 80, [], os.pread

    def counted(descriptor: int, size: int, start: int) -> bytes:
        reads.append(size)
        return pread(descriptor, size, start)

    with mock.patch.object(module, "os", SimpleNamespace(pread=counted, **{"PathLike": os.PathLike})):
        batches(directory, 4, range(updates))
    assert len(reads) == pytest.approx(24 * updates / ORDER.run, rel=0.05)  # a few cross the end of a shard
    assert sum(reads) == 24 * updates * 16 * 2


def test_what_is_kept_is_bounded(directory: Path) -> None:
    reader = RunReader(Blocks(directory, "train"), ORDER)
    reader.read(np.random.default_rng(1).integers(0, SIZE, 3000))
    assert len(reader._kept) == ORDER.streams + 1

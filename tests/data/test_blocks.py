"""Blocks of token ids: written, read back, and refused where torn."""

import json
import os
import pickle
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from megamini.data import blocks
from megamini.data.blocks import Blocks, BlockWriter, Frame, features, load_manifest, shard_schema
from megamini.errors import UserError
from megamini.files import fingerprint_of

FRAME = Frame(block_length=10, vocab_size=1_000, bos=0, eos=2, pad=1)


def write_data(directory, count=100, frame=FRAME):
    """A data directory of random blocks without tokenizer; returns the stream of train."""
    stream = np.random.default_rng(0).integers(5, frame.vocab_size, count * frame.content)
    splits = {}
    for split in ("train", "validation"):
        writer = BlockWriter(directory / split, frame, lambda _: None)
        for part in np.split(stream, [3, 50, 51, 400]):
            writer.append(part)
        assert len(writer.drain()) == 0
        shards = [{**shard, "file": f"{split}/{shard['file']}"} for shard in writer.close()]
        splits[split] = {"blocks": count, "shards": shards}
    save_manifest(directory, {"block_length": frame.block_length, "vocab_size": frame.vocab_size, "splits": splits})
    return stream


def save_manifest(directory, values):
    manifest = {"format": 1, **values}
    (directory / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": fingerprint_of(manifest)}))


@pytest.fixture
def small_shards(monkeypatch):
    """Several record batches a shard and several shards from a hundred blocks."""
    monkeypatch.setattr(blocks, "BATCH_BLOCKS", 7)
    monkeypatch.setattr(blocks, "SHARD_BLOCKS", 21)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("vocab_size, dtype", [(1_000, np.uint16), (2**16, np.uint16), (2**16 + 1, np.int32)])
def test_blocks_are_the_stream_between_bos_and_eos(tmp_path, vocab_size, dtype):
    stream = write_data(tmp_path, frame=Frame(10, vocab_size, bos=0, eos=2, pad=1))
    data = Blocks(tmp_path, "train")
    assert len(data) == 100 and data.block_length == 10
    assert len(list((tmp_path / "train").glob("*.arrow"))) == 5
    read = data.read(np.arange(100))
    assert read.dtype == dtype and read.shape == (100, 10)
    assert (read[:, 0] == 0).all() and (read[:, -1] == 2).all()
    np.testing.assert_array_equal(read[:, 1:-1].reshape(-1), stream)


@pytest.mark.usefixtures("small_shards")
def test_any_order_and_repeats(tmp_path):
    stream = write_data(tmp_path).reshape(100, 8)
    data = Blocks(tmp_path, "train")
    indices = np.array([99, 0, 20, 21, 21, 57, 3])
    np.testing.assert_array_equal(data.read(indices)[:, 1:-1], stream[indices])
    assert data.read(np.array([], np.int64)).shape == (0, 10)
    for outside in (-1, 100):
        with pytest.raises(IndexError):
            data.read(np.array([0, outside]))


def test_shards_are_what_datasets_writes(tmp_path):
    stream = write_data(tmp_path)
    shard = datasets.Dataset.from_file(str(tmp_path / "train" / "00000.arrow"))
    np.testing.assert_array_equal(np.array(shard["input_ids"])[:, 1:-1].reshape(-1), stream)
    theirs = datasets.Features({"input_ids": datasets.List(datasets.Value("uint16"), length=10)})
    assert shard.features == theirs
    assert theirs.arrow_schema.equals(shard_schema(10, np.dtype(np.uint16)), check_metadata=True)
    assert theirs.to_dict() == features(10, np.dtype(np.uint16))


def test_the_leftover_is_padded_only_when_asked(tmp_path):
    writer = BlockWriter(tmp_path, FRAME, lambda _: None)
    writer.append(np.arange(10, 30))
    rest = writer.drain()
    assert rest.tolist() == [26, 27, 28, 29]
    assert writer.pad(rest) == 1 and writer.pad(rest[:0]) == 0
    (shard,) = writer.close()
    rows = np.array(datasets.Dataset.from_file(str(tmp_path / shard["file"]))["input_ids"])
    assert rows[-1].tolist() == [0, 26, 27, 28, 29, 2, 1, 1, 1, 1] and shard["blocks"] == 3


def test_an_unfinished_shard_has_no_name(tmp_path):
    writer = BlockWriter(tmp_path, FRAME, lambda _: None)
    writer.append(np.arange(80))
    writer.drain()
    assert list(tmp_path.glob("*.arrow")) == []
    writer.close()
    assert len(list(tmp_path.glob("*.arrow"))) == 1 and list(tmp_path.glob("*.part")) == []


def linked_data(directory, shards):
    """A data directory whose `shards` shards, a million blocks each, are links to one sparse file."""
    (directory / "train").mkdir(parents=True)
    with (directory / "one").open("wb") as file:
        file.truncate(10**9)
    entries = []
    for number in range(shards):
        os.link(directory / "one", directory / "train" / f"{number:05d}.arrow")
        entries.append({"file": f"train/{number:05d}.arrow", "blocks": 10**6, "bytes": 10**9, "sha256": "0" * 64})
    train = {"blocks": shards * 10**6, "shards": entries}
    save_manifest(directory, {"block_length": 512, "vocab_size": 50_000, "splits": {"train": train}})
    return directory


def test_start_up_does_not_grow_with_the_corpus(tmp_path):
    """10^9 blocks: shards that are opened, let alone read, at the start would raise, being no Arrow files."""
    directory = linked_data(tmp_path, 1_000)
    start = time.perf_counter()
    data = Blocks(directory, "train")
    assert time.perf_counter() - start < 0.5
    assert len(data) == 10**9
    with pytest.raises(UserError, match=r"00999\.arrow: not a shard"):
        data.read(np.array([10**9 - 1]))


def open_shards():
    links = (path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return sorted(name for name in links if name.endswith(".arrow"))


@pytest.mark.usefixtures("small_shards")
def test_opens_shards_when_touched_and_few_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_MOST_OPEN_FILES", 3)
    write_data(tmp_path)
    data = Blocks(tmp_path, "train")
    assert open_shards() == []
    data.read(np.array([0]))
    assert open_shards() == ["00000.arrow"]
    whole = data.read(np.arange(100))
    assert open_shards() == ["00002.arrow", "00003.arrow", "00004.arrow"]
    np.testing.assert_array_equal(data.read(np.arange(100)[::-1]), whole[::-1])
    assert ".arrow" not in Path("/proc/self/maps").read_text()


class AsDataset(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data.read(np.array([index]))[0].astype(np.int64)


@pytest.mark.usefixtures("small_shards")
def test_works_pickled_and_in_loader_workers(tmp_path):
    stream = write_data(tmp_path)
    data = Blocks(tmp_path, "train")
    data.read(np.array([0, 50]))
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again.read(np.arange(100)), data.read(np.arange(100)))
    rows = np.concatenate([batch.numpy() for batch in DataLoader(AsDataset(data), batch_size=9, num_workers=2)])
    np.testing.assert_array_equal(rows[:, 1:-1].reshape(-1), stream)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: (d / "manifest.json").unlink(), "run tools/prepare_data.py"),
        (lambda d: (d / "manifest.json").write_text('{"format": 1, "spl'), "not valid JSON"),
        (lambda d: (d / "manifest.json").write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda d: (d / "manifest.json").write_text('{"format": 2}'), "format 1"),
        (lambda d: (d / "manifest.json").write_text("[]"), "format 1"),
        (lambda d: edit(d, "block_length", 12), "changed"),
        (lambda d: (d / "train/00000.arrow").unlink(), "00000.arrow: the shard is missing"),
        (lambda d: os.truncate(d / "train/00000.arrow", 500), "00000.arrow: 500 bytes"),
        (lambda d: scramble(d / "train/00000.arrow"), "00000.arrow: not a shard of blocks"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    write_data(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        Blocks(tmp_path, "train").read(np.array([0]))


def edit(directory, key, value):
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**manifest, key: value}))


def scramble(path):
    path.write_bytes(b"x" * path.stat().st_size)


def test_an_unknown_split_and_no_directory(tmp_path):
    write_data(tmp_path)
    with pytest.raises(UserError, match="no split 'test'; there are train, validation"):
        Blocks(tmp_path, "test")
    with pytest.raises(UserError, match=r"run tools/prepare_data\.py"):
        load_manifest(tmp_path / "nowhere")

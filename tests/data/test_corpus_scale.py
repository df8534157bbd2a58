"""The loader at 10^4, 10^6 and 10^9 blocks: memory and start-up stay as they are, and the order is a permutation.

The large corpus is 1,000 links to one shard. Each size is measured in a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megamini.data.blocks import BATCH_BLOCKS, FORMAT, BlockWriter, Frame
from megamini.data.order import permute
from megamini.files import fingerprint_of

BLOCK_LENGTH, SHARD, LINKS = 32, 10**6, 1000
FRAME = Frame(block_length=BLOCK_LENGTH, vocab_size=1000, bos=0, eos=2, pad=1)

MEASURE = """
import json, sys, time
from pathlib import Path
import numpy as np
from megamini.data.batches import TrainingMicroBatches, plan_batches, training_loader
from megamini.data.blocks import Blocks
from megamini.data.masking import MaskingRule

def memory():
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) / 1024

before, started = memory(), time.perf_counter()
blocks = Blocks(sys.argv[1], "train")
rule = MaskingRule(0.15, 0.8, 0.1, mask_id=4, special_ids=(0, 1, 2, 4), vocab_size=1000, seed=0)
batches = training_loader(TrainingMicroBatches(blocks, rule, plan_batches(32, 32, 1), 0), 0, 2000, 0, False)
next(batches)
start_up = time.perf_counter() - started
for _ in range(999):
    next(batches)
after = memory()
print(json.dumps({"blocks": len(blocks), "start_up": start_up, "seconds": time.perf_counter() - started,
                  "VmRSS": after - before}))
"""


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """One file of a million blocks, and its entry in a manifest."""
    folder = tmp_path_factory.mktemp("shard")
    writer, draw = BlockWriter(folder, FRAME, lambda blocks: None), np.random.default_rng(0)
    for _ in range(0, SHARD, BATCH_BLOCKS):
        writer.append(draw.integers(5, 1000, BATCH_BLOCKS * FRAME.content))
    writer.drain()
    (entry,) = [one for one in writer.close() if one["blocks"] >= SHARD]
    return folder / entry["file"], entry


def corpus(folder: Path, shard: tuple[Path, dict], links: int) -> Path:
    """A data directory whose training split is `links` times the shard."""
    path, entry = shard
    (folder / "train").mkdir(parents=True)
    shards = []
    for number in range(links):
        name = f"train/{number:05d}.arrow"
        (folder / name).symlink_to(path)
        shards.append({**entry, "file": name})
    splits = {"train": {"shards": shards}}
    manifest = {"format": FORMAT, "block_length": BLOCK_LENGTH, "vocab_size": 1000, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": fingerprint_of(manifest)}))
    return folder


def measured(folder: Path) -> dict:
    done = subprocess.run([sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_billion_blocks_cost_what_a_million_do(shard, tmp_path, record_property):
    small = BlockWriter(tmp_path / "small", FRAME, lambda blocks: None)
    small.append(np.random.default_rng(1).integers(5, 1000, 10**4 * FRAME.content))
    small.drain()
    (entry,) = small.close()
    sizes = {
        "10^4": measured(corpus(tmp_path / "4", (tmp_path / "small" / entry["file"], entry), 1)),
        "10^6": measured(corpus(tmp_path / "6", shard, 1)),
        "10^9": measured(corpus(tmp_path / "9", shard, LINKS)),
    }
    for name, found in sizes.items():
        record_property(name, found)
        print(name, found)
    assert sizes["10^9"]["blocks"] >= 10**9
    for found in sizes.values():
        assert found["start_up"] < 1.0
        assert found["VmRSS"] < sizes["10^4"]["VmRSS"] + 16, "MiB of resident memory"


def test_a_billion_blocks_are_permuted():
    """Samples of an order of 10^9: no block twice, all in range, spread evenly; and the next epoch's is another."""
    size, draw = 10**9 + 7, np.random.default_rng(0)
    positions = np.unique(draw.integers(0, size, 2_000_000))
    blocks = permute(positions, size, seed=3, epoch=0)
    assert len(np.unique(blocks)) == len(positions)
    assert 0 <= blocks.min() <= blocks.max() < size
    counts = np.histogram(blocks, bins=100, range=(0, size))[0]
    expected = len(positions) / 100
    assert ((counts - expected) ** 2 / expected).sum() < 149, "chi-square with 99 degrees of freedom, p = 0.001"
    other = permute(positions, size, seed=3, epoch=1)
    assert (blocks == other).mean() < 1e-5
    neighbours = permute(np.arange(10**6), size, seed=3, epoch=0)
    assert abs(np.corrcoef(neighbours[:-1], neighbours[1:])[0, 1]) < 0.01


def test_small_orders_are_whole_permutations():
    for size in (1, 2, 3, 1000, 4097):
        assert np.array_equal(np.sort(permute(np.arange(size), size, seed=1, epoch=5)), np.arange(size))

"""How fast a rank reads its blocks, by single blocks and by runs: from a warm cache, a cold one, and a far file system.

python tools/benchmarks/loader.py     # makes a corpus of 1 GiB in a temporary folder; writes loader.md beside this file

The far file system is this one with a pause before every read. What eight A100 eat stands beside, by formula.
"""

import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from megamini.commands.planning.clusters import GPUS
from megamini.commands.planning.subject import subject_of
from megamini.data import blocks as blocks_module
from megamini.data.batches import TrainingMicroBatches, plan_batches, training_loader
from megamini.data.blocks import FORMAT, Blocks, BlockWriter, Frame
from megamini.data.masking import MaskingRule
from megamini.data.order import RunOrder
from megamini.errors import CommandParser
from megamini.files import fingerprint_of, write_json
from megamini.recipes.recipe import load_recipe
from tools.benchmarks.page import ROOT, heading, table

BLOCK_LENGTH, VOCAB, MICRO_BATCH = 512, 50_000, 32
FRAME = Frame(BLOCK_LENGTH, VOCAB, bos=0, eos=2, pad=1)
RULE = MaskingRule(0.15, 0.8, 0.1, mask_id=4, special_ids=(0, 1, 2, 4), vocab_size=VOCAB, seed=0)
UTILISATION = 0.4


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--blocks", type=int, default=2**20, help=f"in the corpus, of {BLOCK_LENGTH} tokens")
    parser.add_argument("--global-batch", type=int, default=2048, help="blocks")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--latency", type=float, default=5.0, help="milliseconds before a read of the far file system")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _make_corpus(Path(folder), options.blocks)
        blocks = Blocks(folder, "train")
        orders = {"blocks": None, "runs": RunOrder.of(options.global_batch, 2 * BLOCK_LENGTH)}
        rows = []
        for name, order in orders.items():
            for workers in (0, 2):
                plan = plan_batches(options.global_batch, MICRO_BATCH, options.ranks)
                dataset = TrainingMicroBatches(blocks, RULE, plan, rank=0, order=order)
                rates = {"warm": [], "cold": [], "far": []}
                for _ in range(options.repeats):
                    _rate(dataset, workers, options.seconds / 5)
                    rates["warm"].append(_rate(dataset, workers, options.seconds))
                    _drop_from_cache(Path(folder))
                    rates["cold"].append(_rate(dataset, workers, options.seconds))
                    with _latency(options.latency / 1e3):
                        rates["far"].append(_rate(dataset, workers, options.seconds))
                medians = [f"{statistics.median(found):,.0f}" for found in rates.values()]
                rows.append([name, workers, *medians])
                print(*rows[-1], flush=True)
    page = _page(options, rows, orders["runs"])
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _make_corpus(folder: Path, count: int) -> None:
    writer, draw = BlockWriter(folder / "train", FRAME, lambda blocks: None), np.random.default_rng(0)
    for start in range(0, count, 2**14):
        writer.append(draw.integers(5, VOCAB, min(2**14, count - start) * FRAME.content, dtype=np.uint16))
    writer.drain()
    shards = [{**entry, "file": f"train/{entry['file']}"} for entry in writer.close()]
    splits = {"train": {"shards": shards}}
    content = {"format": FORMAT, "block_length": BLOCK_LENGTH, "vocab_size": VOCAB, "splits": splits}
    write_json(folder / "manifest.json", {**content, "fingerprint": fingerprint_of(content)})


def _rate(dataset: TrainingMicroBatches, workers: int, seconds: float) -> float:
    """Blocks a second of this rank, over whole updates until `seconds` have passed; the first one opens the files."""
    count = 0
    with closing(training_loader(dataset, 0, 10**6, workers, pin_memory=False)) as loader:
        next(loader)
        started = time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds:
            next(loader)
            count += dataset.plan.micro_batch
    return count / passed


def _drop_from_cache(folder: Path) -> None:
    for path in folder.rglob("*.arrow"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _latency(seconds: float):
    def slow(descriptor: int, size: int, start: int) -> bytes:
        time.sleep(seconds)
        return os.pread(descriptor, size, start)

    return mock.patch.object(blocks_module, "os", SimpleNamespace(pread=slow, PathLike=os.PathLike))


def _page(options, rows: list[list], runs: RunOrder) -> str:
    changes = [f"training.global_batch={options.global_batch}", "optimizer.name=adamw"]
    recipe = load_recipe(str(ROOT / "launch/recipes/base/minijoint.yaml"), changes)
    subject = subject_of(recipe, VOCAB, BLOCK_LENGTH)
    per_block = subject.flops() / (subject.updates * options.global_batch)
    eaten = GPUS["a100-80gb"].peak("bf16") * UTILISATION / per_block
    columns = ["`training.block_order`", "`data.workers`", "warm (blocks/s)", "cold (blocks/s)"]
    slow = {name: rates[-1] for name, *rates in reversed(rows)}  # of the fewest workers, which come first
    return "\n".join(
        [
            heading(
                "Reading the corpus",
                ["torch", "numpy"],
                f"If each read takes {options.latency:g} ms, one process reads {slow['runs']} blocks a second in the "
                f"order `runs`, and {slow['blocks']} in the order `blocks`.",
            ),
            f"This is one rank of {options.ranks} with a global batch of {options.global_batch:,}: the real loader, "
            f"with masking, one thread per\nprocess. There are {options.blocks:,} blocks of {BLOCK_LENGTH} tokens, "
            f"1 KiB each. Medians of {options.repeats}. Cold: the system was told to drop the\nfile from its cache.",
            "",
            table([*columns, f"{options.latency:g} ms a read (blocks/s)"], rows),
            f"`runs` reads {runs.run} blocks ({runs.run} KiB) at a time. A process keeps at most "
            f"{options.global_batch // options.ranks + 1:,} such runs, those of its rank.",
            "",
            f"**What is needed.** A base-shaped body with MiniJoint takes {per_block / 1e12:.2f} TFLOPs a block. At "
            f"{UTILISATION:.0%} of its bf16 peak, an\nA100 needs {eaten:,.0f} blocks a second, and eight of them "
            f"{8 * eaten:,.0f}.",
            "",
            "Not measured: a real network file system. Its reads also wait for one another.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

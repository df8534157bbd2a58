"""The loader's share of a step: how long an update waits for its batches, and what making them costs.

python tools/benchmarks/loader_share.py --data data/en     # base shape; blocks of 128; writes loader_share.md

The real loader over a real data directory in front of real updates, as `launch/pretrain.py` runs them.
"""

import argparse
import statistics
import sys
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from megamini.data.batches import TrainingMicroBatches, plan_batches, training_loader
from megamini.recipes.objective import MaskingSection
from megamini.training.text import open_text
from tools.benchmarks.page import heading, table
from tools.benchmarks.pretraining import pretraining_engine, pretraining_update
from tools.benchmarks.updates import BLOCK_LENGTH, BLOCKS, parse, update_options


def main() -> None:
    parser = update_options(__doc__, Path(__file__).with_suffix(".md"))
    parser.add_argument("--data", required=True, help=f"a data directory with blocks of {BLOCK_LENGTH}")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    options = parse(parser)
    torch.manual_seed(0)
    text = open_text(options.data, MaskingSection(), seed=0, global_batch=BLOCKS)
    if text.block_length != BLOCK_LENGTH or len(text.tokenizer) > options.vocab:
        raise SystemExit(f"{options.data}: needs blocks of {BLOCK_LENGTH}, and at most {options.vocab} pieces")
    batches = text.micro_batches(plan_batches(BLOCKS, BLOCKS, 1), 0, "runs")
    engine = pretraining_engine(options, "minijoint", options.precision)
    making = []
    for number in range(50):
        started = time.perf_counter()
        batches[number]
        making.append(time.perf_counter() - started)
    rows = []
    for workers in options.workers:
        waits, steps = _updates(options, batches, engine, workers)
        wait, step = statistics.median(waits), statistics.median(steps)
        rows.append(
            [workers, f"{1e3 * wait:.2f}", f"{1e3 * max(waits):.2f}", f"{step:.2f}", f"{wait / (wait + step):.3%}"]
        )
    page = _page(options, rows, statistics.median(making))
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _updates(
    options: argparse.Namespace, batches: TrainingMicroBatches, engine, workers: int
) -> tuple[list[float], list[float]]:
    """Seconds that each update waited for its batch, and seconds it then took; the first one starts the workers."""
    waits, steps = [], []
    with closing(training_loader(batches, 0, options.rounds + 1, workers, pin_memory=False)) as loader:
        for _ in range(options.rounds + 1):
            started = time.perf_counter()
            batch = next(loader)
            there = time.perf_counter()
            pretraining_update(engine, batch)
            waits.append(there - started)
            steps.append(time.perf_counter() - there)
            print(f"{workers} workers: waited {1e3 * waits[-1]:.2f} ms, update {steps[-1]:.2f} s", flush=True)
    return waits[1:], steps[1:]


def _page(options: argparse.Namespace, rows: list[list], making: float) -> str:
    return "\n".join(
        [
            heading(
                "The loader's share of a step",
                ["torch"],
                f"Waiting for the loader takes at most {max((row[-1] for row in rows), key=_percent)} of a step.",
            ),
            f"RoBERTa shape of {options.layers} layers, width {options.hidden}, {options.vocab:,} pieces, MiniJoint;",
            f"{BLOCKS * BLOCK_LENGTH:,} tokens an update in blocks of {BLOCK_LENGTH}; {options.precision};",
            f"{torch.get_num_threads()} threads; {options.rounds} updates after the first.",
            "",
            table(["`data.workers`", "median wait (ms)", "longest (ms)", "update (s)", "share of the step"], rows),
            f"Making a batch (reading, masking, 80/10/10) takes {1e3 * making:.2f} ms of one core: "
            f"{BLOCKS * BLOCK_LENGTH / making:,.0f} tokens a second for each worker.",
            "",
        ]
    )


def _percent(text: str) -> float:
    return float(text.removesuffix("%"))


if __name__ == "__main__":
    main()

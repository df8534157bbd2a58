"""What a checkpoint costs the step: seconds of an update with and without a save in flight, and of beginning one.

OMP_NUM_THREADS=1 python tools/benchmarks/save_stall.py    # base shape, a core left for the writer; save_stall.md
python tools/benchmarks/save_stall.py --out tools/benchmarks/save_stall_2_threads.md    # none left
python tools/benchmarks/save_stall.py --layers 3 --hidden 64 --vocab 500 --rounds 3 --out /tmp/save_stall.md    # a try

One process; the checkpoint is written, hashed and flushed in a thread while updates go on.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from megamini.training.checkpoints.checkpoint import Checkpoints
from megamini.training.state.train_state import TrainState
from tools.benchmarks.page import heading, table
from tools.benchmarks.pretraining import pretraining_engine, pretraining_update
from tools.benchmarks.updates import parse, random_batch, update_options


def main() -> None:
    parser = update_options(__doc__, Path(__file__).with_suffix(".md"))
    parser.add_argument(
        "--work", type=Path, help="folder for the checkpoints (default: the system's for temporary files)"
    )
    options = parse(parser)
    torch.manual_seed(0)
    batch, engine = random_batch(options.vocab), pretraining_engine(options, "minijoint", options.precision)

    def update() -> float:
        started = time.perf_counter()
        pretraining_update(engine, batch)
        return time.perf_counter() - started

    update()  # the first one allocates
    seconds: dict[str, list[float]] = {"no save in flight": [], "a save in flight": []}
    begins, writes = [], []
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        checkpoints = Checkpoints(Path(folder), keep_last=1, identity={})
        for number in range(options.rounds):
            seconds["no save in flight"].append(update())
            started = time.perf_counter()
            checkpoints.begin(engine, TrainState(update=number + 1))
            begins.append(time.perf_counter() - started)
            seconds["a save in flight"].append(update())
            checkpoints.finish(engine)
            writes.append(time.perf_counter() - started)
            print(f"round {number}: {seconds['no save in flight'][-1]:.2f} s, {seconds['a save in flight'][-1]:.2f} s")
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    page = _page(options, seconds, begins, writes, size)
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _page(
    options: argparse.Namespace, seconds: dict[str, list[float]], begins: list[float], writes: list[float], size: int
) -> str:
    median = {name: statistics.median(times) for name, times in seconds.items()}
    usual, beside = median.values()
    begin = statistics.median(begins)
    measured = {**seconds, "beginning one (a copy in memory)": begins, "until it is complete": writes}
    rows = [
        [name, f"{statistics.median(times):.2f}", f"{min(times):.2f}", f"{max(times):.2f}"]
        for name, times in measured.items()
    ]
    return "\n".join(
        [
            heading(
                "What a checkpoint costs the step",
                ["torch", "safetensors"],
                f"While a checkpoint is written, the time of an update changes by {beside / usual - 1:+.1%}. Beginning "
                f"one stops the run for {begin / usual:.1%}\nof an update.",
            ),
            f"RoBERTa shape of {options.layers} layers, width {options.hidden}, {options.vocab:,} pieces, MiniJoint;",
            f"{options.precision}; a checkpoint of {size / 1e9:.2f} GB; {torch.get_num_threads()} threads;",
            f"{options.rounds} interleaved rounds. Seconds:",
            "",
            table(["", "median", "fastest", "slowest"], rows),
            "Caveat: on a CPU, the thread that hashes and writes takes a core from the step. On a GPU it would not.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

"""Where the time of an update goes, by kind of operation, beside what the matrix products need at this machine's rate.

python tools/benchmarks/where_time_goes.py          # base shape; writes where_time_goes.md beside this file
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.profiler import ProfilerActivity, profile

from megamini.costs.flops import BodyShape, ExitShape, training_flops
from tools.benchmarks.page import heading, table
from tools.benchmarks.pretraining import pretraining_engine, pretraining_update
from tools.benchmarks.updates import (
    BLOCK_LENGTH,
    BLOCKS,
    MASKED,
    about_rates,
    measured_rates,
    parse,
    random_batch,
    roberta_config,
    update_options,
)

# The first kind whose words are in an operation's name has its time; operations are counted without their parts.
KINDS = {
    "softmax of attention": ("softmax",),
    "matrix products": ("addmm", "aten::mm", "bmm", "mkldnn_linear", "aten::linear", "matmul"),
    "optimizer": ("adamw", "Optimizer"),
    "norms": ("layer_norm", "native_layer_norm"),
    "GELU": ("gelu",),
    "dropout's masks": ("aten::ge",),
    "gradient norm and clipping": ("_foreach_norm", "vector_norm", "linalg", "_foreach_mul"),
    "embedding, gather, scatter": ("embedding", "index", "scatter", "gather"),
    "copies and casts": ("copy", "aten::to", "clone", "contiguous", "cat"),
    "sums, products": ("add", "mul", "sum", "div", "sub", "exp", "log", "max", "fill", "zero"),
}


def main() -> None:
    options = parse(update_options(__doc__, Path(__file__).with_suffix(".md"), choose_precision=False))
    torch.manual_seed(0)
    batch = random_batch(options.vocab)
    rates = measured_rates()
    pages, point = [_about(options, rates)], ""
    for precision, rate in rates.items():
        engine = pretraining_engine(options, "minijoint", precision)
        pretraining_update(engine, batch)
        started = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(options.rounds):
                pretraining_update(engine, batch)
        took = (time.perf_counter() - started) / options.rounds
        seconds = _seconds(options, profiler, took)
        largest, value = seconds.most_common(1)[0]
        point = point or f"Most of the time of an update goes into {largest}: {value / took:.1%} in {precision}."
        pages.append(_section(options, precision, seconds, took, rate))
    page = "\n".join([heading("Where the time of an update goes", ["torch", "transformers"], point), *pages])
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _about(options: argparse.Namespace, rates: dict[str, float]) -> str:
    return (
        f"RoBERTa shape of {options.layers} layers, width {options.hidden}, {options.vocab:,} pieces, MiniJoint with\n"
        f"an exit after {options.exit} layers; {BLOCKS * BLOCK_LENGTH:,} tokens an update; {torch.get_num_threads()} "
        f"threads; mean of {options.rounds} updates\nunder PyTorch's profiler, which slows them a little.\n"
        f"{about_rates(rates)}\n"
    )


def _seconds(options: argparse.Namespace, profiler: profile, took: float) -> Counter[str]:
    """Seconds of an update by kind of work."""
    seconds: Counter[str] = Counter()
    for event in profiler.key_averages():
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), "other")
        seconds[kind] += event.self_cpu_time_total / 1e6 / options.rounds
    seconds["Python, NumPy's draws for dropout, between operations"] = max(0.0, took - seconds.total())
    return seconds


def _section(options: argparse.Namespace, precision: str, seconds: Counter[str], took: float, rate: float) -> str:
    shape = BodyShape.from_config(roberta_config(options))
    flops = BLOCKS * training_flops(shape, BLOCK_LENGTH, MASKED, "minijoint", (ExitShape(options.exit),))
    rows = [[kind, f"{value:.2f}", f"{value / took:.1%}"] for kind, value in seconds.most_common()]
    return "\n".join(
        [
            f"## {precision}: {took:.2f} s an update",
            "",
            f"At this machine's matrix-multiply rate, {rate / 1e9:,.0f} GFLOP/s, its matrix products and attention",
            f"would take {flops / rate:.2f} s.",
            "",
            table(["", "seconds", "share"], rows),
        ]
    )


if __name__ == "__main__":
    main()

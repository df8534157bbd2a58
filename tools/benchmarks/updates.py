"""What the benchmarks of whole updates share: the base shape, a batch of it, interleaved rounds."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlamaConfig, RobertaConfig

from megamini.costs.flops import measured_matmul_rate
from megamini.data.batches import Batch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
BLOCK_LENGTH, BLOCKS, MASKED = 128, 32, 19  # 4,096 tokens an update, round(15% of 126) masked in each block


def update_options(description: str | None, page: Path, choose_precision: bool = True) -> argparse.ArgumentParser:
    """The options of a benchmark whose results go to `page`. choose_precision: one, by an option."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"layers": 12, "hidden": 768, "vocab": 50_000, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--exit", type=int, help="layer of the mini-model (default: a third of the layers)")
    if choose_precision:
        parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--out", type=Path, default=page)
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    options = parser.parse_args()
    options.exit = options.exit or options.layers // 3
    return options


def roberta_config(options: Any, layers: int | None = None, block_length: int = BLOCK_LENGTH) -> RobertaConfig:
    """Of a body of `options.layers` layers or others, of width `options.hidden` with `options.vocab` pieces."""
    return AutoConfig.for_model(
        "roberta",
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        num_hidden_layers=layers or options.layers,
        num_attention_heads=options.hidden // 64,
        intermediate_size=4 * options.hidden,
        max_position_embeddings=block_length + 2,
    )


def llama_config(options: Any, layers: int | None = None, block_length: int = BLOCK_LENGTH) -> LlamaConfig:
    """The same of a decoder, with as many FLOPs in a layer: three matrices of its feed-forward network instead of two.
    Input and output share the token matrix."""
    return AutoConfig.for_model(
        "llama",
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        num_hidden_layers=layers or options.layers,
        num_attention_heads=max(options.hidden // 64, 1),
        intermediate_size=8 * options.hidden // 3,
        max_position_embeddings=block_length,
        tie_word_embeddings=True,
    )


def measured_rates() -> dict[str, float]:
    """FLOPs a second of this machine's matrix products by precision: bf16 only where it is not slower than fp32."""
    rates = {name: measured_matmul_rate("cpu", dtype, seconds=2.0) for name, dtype in PRECISIONS.items()}
    return {name: rate for name, rate in rates.items() if rate >= rates["fp32"]}


def about_rates(rates: dict[str, float]) -> str:
    """A sentence on what `measured_rates` found."""
    found = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in rates.items())
    left_out = "" if "bf16" in rates else "; bf16 is left out, since this processor multiplies it more slowly than fp32"
    return f"This machine's matrix-multiply rate at its best, measured before: {found}{left_out}."


def random_batch(vocab: int) -> Batch:
    """Random tokens: only the shape matters to the time."""
    positions = torch.arange(MASKED) * (BLOCK_LENGTH // MASKED) + 1
    return Batch(
        input_ids=torch.randint(5, vocab, (BLOCKS, BLOCK_LENGTH)),
        positions=(torch.arange(BLOCKS)[:, None] * BLOCK_LENGTH + positions).flatten(),
        labels=torch.randint(5, vocab, (BLOCKS * MASKED,)),
    )


def next_token_batch(vocab: int) -> Batch:
    """The same for a decoder: all positions but two of a block predict the token behind them."""
    ids, predicted = torch.randint(5, vocab, (BLOCKS, BLOCK_LENGTH)), torch.arange(BLOCK_LENGTH - 2)
    positions = (torch.arange(BLOCKS)[:, None] * BLOCK_LENGTH + predicted).flatten()
    return Batch(ids, positions, ids[:, 1:-1].flatten())


def interleaved(updates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each update in each round; a round runs each once, so that drift meets all alike."""
    for update in updates.values():
        update()  # the first one allocates
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(rounds):
        for name, update in updates.items():
            started = time.perf_counter()
            update()
            seconds[name].append(time.perf_counter() - started)
            print(f"{name:32} {seconds[name][-1]:.2f} s", flush=True)
    return seconds


def spread(seconds: dict[str, list[float]]) -> list[list[str]]:
    """Rows: name, median, fastest, slowest."""
    return [
        [name, f"{statistics.median(times):.2f}", f"{min(times):.2f}", f"{max(times):.2f}"]
        for name, times in seconds.items()
    ]


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> tuple[float, float]:
    """Ratio of the medians, and the median of the rounds' ratios."""
    pairs = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
    return statistics.median(seconds[above]) / statistics.median(seconds[below]), statistics.median(pairs)

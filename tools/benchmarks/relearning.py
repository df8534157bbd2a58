"""What learning a language costs: an update over the whole body, over a mini-model, and the library's own way.

python tools/benchmarks/relearning.py                                # base shape, writes relearning.md beside this file
python tools/benchmarks/relearning.py --accumulation 4 --out tools/benchmarks/relearning_16k.md    # 16,384 tokens
python tools/benchmarks/relearning.py --layers 3 --hidden 64 --vocab 500 --rounds 3 --out /tmp/relearning.md   # a try
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import AutoModelForMaskedLM

from megamini.adaptation.relearn_model import RelearnModel
from megamini.compute import BodyShape, training_flops
from megamini.config import OptimizerSection, TrainingSection
from megamini.data.batches import Batch
from megamini.training.engines import PlainEngine
from tools.benchmarks.page import heading, table
from tools.benchmarks.updates import (
    BLOCK_LENGTH,
    BLOCKS,
    MASKED,
    interleaved,
    parse,
    random_batch,
    ratio,
    roberta_config,
    spread,
    update_options,
)

FULL, MINI, LIBRARY = "whole body", "mini-model", "the library's way"


def main() -> None:
    parser = update_options(__doc__, Path(__file__).with_suffix(".md"))
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of 4,096 tokens an update")
    options = parse(parser)
    torch.manual_seed(0)
    batch = random_batch(options.vocab)
    updates = {
        FULL: partial(_update, _engine(options, options.layers), batch, options.accumulation),
        MINI: partial(_update, _engine(options, options.exit), batch, options.accumulation),
        LIBRARY: _library_update(options, batch),
    }
    page = _page(options, interleaved(updates, options.rounds))
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _engine(options: argparse.Namespace, layers: int) -> PlainEngine:
    body = AutoModelForMaskedLM.from_config(roberta_config(options, layers))
    start = torch.randn(options.vocab, options.hidden) * 0.02, torch.zeros(options.vocab)
    training = TrainingSection(global_batch=BLOCKS, micro_batch=BLOCKS, precision=options.precision)
    model = RelearnModel(body, {"xx": start})
    return PlainEngine(model, OptimizerSection(learning_rate=1e-4), training, options.accumulation, torch.device("cpu"))


def _update(engine: PlainEngine, batch: Batch, accumulation: int) -> None:
    for _ in range(accumulation):
        engine.forward_backward(batch)
    engine.step(1e-4)


def _library_update(options: argparse.Namespace, batch: Batch) -> Callable[[], None]:
    """Body frozen, logits everywhere, AdamW: what one writes with plain transformers (bf16: by autocast)."""
    model = AutoModelForMaskedLM.from_config(roberta_config(options)).requires_grad_(False)
    trained = [model.get_input_embeddings().weight, model.get_output_embeddings().bias]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    labels = torch.full((batch.input_ids.numel(),), -100)
    labels[batch.positions] = batch.labels
    labels = labels.view_as(batch.input_ids)
    model.train()

    def update() -> None:
        for _ in range(options.accumulation):
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
                loss = model(input_ids=batch.input_ids, labels=labels).loss
            (loss / options.accumulation).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def _page(options: argparse.Namespace, seconds: dict[str, list[float]]) -> str:
    full, mini = (
        training_flops(BodyShape.from_config(roberta_config(options, layers)), BLOCK_LENGTH, MASKED, "standard")
        for layers in (options.layers, options.exit)
    )
    over_full, over_library = ratio(seconds, FULL, MINI), ratio(seconds, LIBRARY, MINI)
    tokens = BLOCKS * BLOCK_LENGTH * options.accumulation
    return "\n".join(
        [
            heading(
                "Learning a language: an update over the whole body and over a mini-model", ["torch", "transformers"]
            ),
            f"RoBERTa shape of {options.layers} layers, d {options.hidden}, vocabulary {options.vocab:,}; mini-model",
            f"of {options.exit} layers. {tokens:,} tokens an update, in blocks of {BLOCK_LENGTH} with {MASKED} masked;",
            f"{options.precision}, dropout 0.1; token matrix and output bias train: forward, backward, clipping, AdamW",
            f"in one process with {torch.get_num_threads()} threads; {options.rounds} interleaved rounds.",
            "The library's way: `RobertaForMaskedLM` with frozen body and labels, logits at all positions. Seconds an",
            "update:",
            "",
            table(["over", "median", "fastest", "slowest"], spread(seconds)),
            f"**Whole body over mini-model: {over_full[0]:.2f}** (ratio of medians; median of the rounds' ratios",
            f"{over_full[1]:.2f}). By the FLOPs formula, without the optimizer: {full / mini:.2f}.",
            "",
            f"**The library's way over our mini-model: {over_library[0]:.2f}** (rounds: {over_library[1]:.2f}).",
            "",
            "Caveat: random tokens, since only shapes matter here; whatever else runs on the machine shows in the",
            "slowest column.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

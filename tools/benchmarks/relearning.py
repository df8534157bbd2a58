"""What learning a language costs: an update over the whole body, over a mini-model, and the library's own way.

python tools/benchmarks/relearning.py                                # base shape, writes relearning.md beside this file
python tools/benchmarks/relearning.py --accumulation 4 --out tools/benchmarks/relearning_16k.md    # 16,384 tokens
python tools/benchmarks/relearning.py --family llama --vocab 8000 --out tools/benchmarks/relearning_decoder.md
python tools/benchmarks/relearning.py --layers 3 --hidden 64 --vocab 500 --rounds 3 --out /tmp/relearning.md   # a try
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import PretrainedConfig, PreTrainedModel

from megamini.adaptation.relearning.model import RelearnModel
from megamini.costs.flops import BodyShape, training_flops
from megamini.data.batches import Batch
from megamini.models.families import family_of
from megamini.recipes.optimizer import OptimizerSection
from megamini.recipes.sections import TrainingSection
from megamini.training.engines.plain_engine import PlainEngine
from tools.benchmarks.page import heading, table
from tools.benchmarks.updates import (
    BLOCK_LENGTH,
    BLOCKS,
    MASKED,
    about_rates,
    interleaved,
    llama_config,
    measured_rates,
    next_token_batch,
    parse,
    random_batch,
    ratio,
    roberta_config,
    spread,
    update_options,
)

LANGUAGES = 3  # of the candidate that learns several side by side
# Of each family: its configuration, a batch, and how many positions of a block predict.
FAMILIES = {
    "roberta": (roberta_config, random_batch, MASKED),
    "llama": (llama_config, next_token_batch, BLOCK_LENGTH - 2),
}


def main() -> None:
    parser = update_options(__doc__, Path(__file__).with_suffix(".md"), choose_precision=False)
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of 4,096 tokens an update")
    parser.add_argument("--family", choices=FAMILIES, default="roberta")
    options = parse(parser)
    torch.manual_seed(0)
    batch = FAMILIES[options.family][1](options.vocab)
    rates = measured_rates()
    updates: dict[str, Callable[[], None]] = {}
    for precision in rates:
        for layers in depths(options) if precision == "fp32" else (options.layers, options.exit):
            updates[_ours(layers, precision)] = partial(
                _update, _engine(options, layers, precision), batch, options.accumulation
            )
        updates[_library(precision)] = _library_update(options, batch, precision)
    together = _engine(options, options.exit, "fp32", LANGUAGES)
    updates[_together(options)] = partial(_update, together, _for_languages(batch), options.accumulation)
    page = _page(options, interleaved(updates, options.rounds), rates)
    print(page)
    options.out.write_text(page, encoding="utf-8")


def depths(options: argparse.Namespace) -> list[int]:
    """All layers, and mini-models of half as many layers as the exit, as many, and half as many more."""
    minis = {options.exit // 2 or 1, options.exit, min(options.exit * 3 // 2, options.layers)}
    return sorted({options.layers, *minis}, reverse=True)


def _config(options: argparse.Namespace, layers: int | None = None) -> PretrainedConfig:
    return FAMILIES[options.family][0](options, layers)


def _model(options: argparse.Namespace, layers: int | None = None) -> PreTrainedModel:
    config = _config(options, layers)
    return family_of(config).auto_class.from_config(config)


def _ours(layers: int, precision: str) -> str:
    return f"{layers} layers, {precision}"


def _library(precision: str) -> str:
    return f"the library's way, {precision}"


def _together(options: argparse.Namespace) -> str:
    return f"{options.exit} layers, fp32, {LANGUAGES} languages side by side"


def _engine(options: argparse.Namespace, layers: int, precision: str, languages: int = 1) -> PlainEngine:
    body = _model(options, layers)
    starts = {
        f"x{number}": (torch.randn(options.vocab, options.hidden) * 0.02, torch.zeros(options.vocab))
        for number in range(languages)
    }
    training = TrainingSection(global_batch=BLOCKS, micro_batch=BLOCKS, precision=precision)
    model = RelearnModel(body, starts, train_bias=options.family == "roberta")  # decoders have none
    return PlainEngine(model, OptimizerSection(learning_rate=1e-4), training, options.accumulation, torch.device("cpu"))


def _for_languages(batch: Batch) -> Batch:
    """The batch once for each language, behind one another."""
    positions = [batch.positions + number * batch.input_ids.numel() for number in range(LANGUAGES)]
    return Batch(batch.input_ids.repeat(LANGUAGES, 1), torch.cat(positions), batch.labels.repeat(LANGUAGES))


def _update(engine: PlainEngine, batch: Batch, accumulation: int) -> None:
    for _ in range(accumulation):
        engine.forward_backward(batch)
    engine.step(1e-4)


def _library_update(options: argparse.Namespace, batch: Batch, precision: str) -> Callable[[], None]:
    """Body frozen, logits everywhere, AdamW: what one writes with plain transformers (bf16: by autocast)."""
    model = _model(options).requires_grad_(False)
    bias = model.get_output_embeddings().bias
    trained = [model.get_input_embeddings().weight, *([] if bias is None else [bias])]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    labels = torch.full((batch.input_ids.numel(),), -100)
    labels[batch.positions + (options.family == "llama")] = batch.labels  # the library shifts them by one
    labels = labels.view_as(batch.input_ids)
    model.train()

    def update() -> None:
        for _ in range(options.accumulation):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = model(input_ids=batch.input_ids, labels=labels).loss
            (loss / options.accumulation).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def _page(options: argparse.Namespace, seconds: dict[str, list[float]], rates: dict[str, float]) -> str:
    name, predicted = type(_model(options, 1)).__name__, FAMILIES[options.family][2]
    full, mini = (
        training_flops(BodyShape.from_config(_config(options, layers)), BLOCK_LENGTH, predicted, "standard")
        for layers in (options.layers, options.exit)
    )
    whole, small = _ours(options.layers, "fp32"), _ours(options.exit, "fp32")
    pairs = {
        "whole body over mini-model, fp32": (whole, small),
        "whole body over mini-model, bf16": (_ours(options.layers, "bf16"), _ours(options.exit, "bf16")),
        "the library's way over our mini-model, fp32": (_library("fp32"), small),
        "the library's way over our mini-model, bf16": (_library("bf16"), _ours(options.exit, "bf16")),
        "the library's way in fp32 over our mini-model in bf16": (_library("fp32"), _ours(options.exit, "bf16")),
        f"{LANGUAGES} languages side by side over one alone": (_together(options), small),
    }
    ratios = [
        [name, *(f"{value:.2f}" for value in ratio(seconds, *pair))]
        for name, pair in pairs.items()
        if set(pair) <= set(seconds)
    ]
    tokens = BLOCKS * BLOCK_LENGTH * options.accumulation
    return "\n".join(
        [
            heading(
                "Learning a language: an update over the whole body and over a mini-model",
                ["torch", "transformers"],
                f"An update over {options.exit} layers takes {ratio(seconds, whole, small)[0]:.2f} times less time "
                f"than over all {options.layers}, and {ratio(seconds, _library('fp32'), small)[0]:.2f} times less than"
                f"\n`{name}` of `transformers` with a frozen body, on a CPU in fp32.",
            ),
            f"{name} of {options.layers} layers, width {options.hidden}, {options.vocab:,} pieces; mini-model:",
            f"{options.exit} layers. {tokens:,} tokens an update and language, in blocks of {BLOCK_LENGTH} with",
            f"{predicted} predicted{'; dropout 0.1' if options.family == 'roberta' else ''}. The token matrix",
            "trains, and the output bias where there is one: forward, backward, clipping, AdamW in",
            f"one process with {torch.get_num_threads()} threads; {options.rounds} interleaved rounds. The library's",
            f"way is `{name}` with frozen body and labels: logits at all positions (bf16: autocast). The",
            "table has seconds an update.",
            about_rates(rates),
            "",
            table(["over", "median", "fastest", "slowest"], spread(seconds)),
            table(["ratio", "of medians", "median of the rounds' ratios"], ratios),
            f"By the FLOPs formula, without the optimizer, whole body over mini-model: {full / mini:.2f}.",
            "",
            "Caveat: the tokens are random, since only shapes matter here. Other work on the machine shows in the",
            "slowest column. All candidates share a process. Ours makes it keep freed memory, which helps theirs too.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

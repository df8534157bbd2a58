"""Pretraining beside the transformers recipe for masked-LM and a plain PyTorch loop: seconds of an update, utilisation.

python tools/benchmarks/pretraining.py                            # base shape, writes pretraining.md beside this file
python tools/benchmarks/pretraining.py --layers 3 --hidden 64 --vocab 500 --rounds 3 --out /tmp/page.md   # a try

All candidates take turns in each round: ours with mlm and with minijoint, each in fp32 and bf16; the library's Trainer
with `RobertaForMaskedLM` and logits at all positions, in fp32 and under bf16 autocast; the same model in a plain loop.
Without bf16 where this machine is slower in it. The matrix-multiply rate that utilisation is of takes turns as well.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.utils.data import TensorDataset
from transformers import AutoModelForMaskedLM, PreTrainedConfig, Trainer, TrainingArguments

from megamini.costs.flops import BodyShape, ExitShape, training_flops
from megamini.data.batches import Batch
from megamini.models.primary_model import PrimaryModel
from megamini.recipes.recipe import Recipe
from megamini.training.engines.plain_engine import PlainEngine
from tools.benchmarks.page import heading, table
from tools.benchmarks.updates import (
    BLOCK_LENGTH,
    BLOCKS,
    MASKED,
    PRECISIONS,
    about_rates,
    interleaved,
    measured_rates,
    parse,
    random_batch,
    ratio,
    roberta_config,
    spread,
    update_options,
)

METHODS = ("mlm", "minijoint")
SIZE, PRODUCTS = 1024, 300


def main() -> None:
    options = parse(update_options(__doc__, Path(__file__).with_suffix(".md"), choose_precision=False))
    torch.manual_seed(0)
    batch = random_batch(options.vocab)
    precisions = measured_rates()
    updates: dict[str, Callable[[], object]] = {_products(name): _matrix_products(name) for name in precisions}
    for precision in precisions:
        for method in METHODS:
            updates[f"ours, {method}, {precision}"] = partial(
                pretraining_update, pretraining_engine(options, method, precision), batch
            )
        updates[f"Trainer, {precision}"] = trainer_update(roberta_config(options), batch, precision)
    updates["plain loop, fp32"] = _plain_update(options, batch)
    page = _page(options, interleaved(updates, options.rounds), precisions)
    print(page)
    options.out.write_text(page, encoding="utf-8")


def pretraining_engine(options: argparse.Namespace, method: str, precision: str) -> PlainEngine:
    exits = [options.exit] if method == "minijoint" else []
    recipe = Recipe.model_validate(
        {
            "name": method,
            "model": {"family": "roberta", "exits": exits},
            "data": {"path": "none"},
            "objective": {"method": method},
            "optimizer": {"learning_rate": 1e-4},
            "schedule": {"duration": "1 updates", "warmup": "1 updates"},
            "training": {"global_batch": BLOCKS, "micro_batch": BLOCKS, "precision": precision},
        }
    )
    model = PrimaryModel(AutoModelForMaskedLM.from_config(roberta_config(options)), exits)
    return PlainEngine(model, recipe.optimizer, recipe.training, accumulation=1, device=torch.device("cpu"))


def pretraining_update(engine: PlainEngine, batch: Batch) -> None:
    engine.forward_backward(batch)
    engine.step(1e-4)


def _products(precision: str) -> str:
    return f"{PRODUCTS} matrix products, {precision}"


def _matrix_products(precision: str) -> Callable[[], None]:
    """Square products, about two seconds of them."""
    left, right = (torch.randn(SIZE, SIZE).to(PRECISIONS[precision]) for _ in range(2))

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.matmul(left, right, out=result)

    result = left @ right
    return multiply


def _inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """What the recipe's collator makes: labels everywhere, -100 where nothing is predicted, and a mask of ones."""
    labels = torch.full((batch.input_ids.numel(),), -100, device=batch.input_ids.device)
    labels[batch.positions] = batch.labels
    return {
        "input_ids": batch.input_ids,
        "labels": labels.view_as(batch.input_ids),
        "attention_mask": torch.ones_like(batch.input_ids),
    }


def trainer_update(config: PreTrainedConfig, batch: Batch, precision: str, use_cpu: bool = True) -> Callable[[], None]:
    """The inner loop of the library's Trainer, step by step: forward and backward, clipping, optimizer, schedule."""
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(batch.input_ids), max_steps=1000,
        bf16=precision == "bf16", use_cpu=use_cpu, report_to=[], optim="adamw_torch_fused",
    )  # fmt: skip
    model = AutoModelForMaskedLM.from_config(config)
    trainer = Trainer(model, arguments, train_dataset=TensorDataset(torch.zeros(1)))
    trainer.create_optimizer_and_scheduler(arguments.max_steps)
    model, optimizer = trainer.accelerator.prepare(model, trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1  # what its train() sets
    inputs = _inputs(batch)

    def update() -> None:
        trainer.training_step(model, dict(inputs))
        trainer.accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
        optimizer.step()
        trainer.lr_scheduler.step()
        model.zero_grad()

    return update


def _plain_update(options: argparse.Namespace, batch: Batch) -> Callable[[], None]:
    model = AutoModelForMaskedLM.from_config(roberta_config(options)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs = _inputs(batch)

    def update() -> None:
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def _page(options: argparse.Namespace, seconds: dict[str, list[float]], precisions: dict[str, float]) -> str:
    products = {name: seconds.pop(_products(name)) for name in precisions}
    rates = {name: 2 * SIZE**3 * PRODUCTS / statistics.median(times) for name, times in products.items()}
    shape, exits = BodyShape.from_config(roberta_config(options)), (ExitShape(options.exit),)
    flops = {
        "mlm": BLOCKS * training_flops(shape, BLOCK_LENGTH, MASKED, "mlm"),
        "minijoint": BLOCKS * training_flops(shape, BLOCK_LENGTH, MASKED, "minijoint", exits),
    }
    tokens = BLOCKS * BLOCK_LENGTH
    rows = []
    for (name, *cells), times in zip(spread(seconds), seconds.values(), strict=True):
        median = statistics.median(times)
        ours = name.split(", ")[1] if name.startswith("ours") else "mlm"
        precision = name.rpartition(", ")[2]
        rows.append([name, *cells, f"{tokens / median:,.0f}", f"{flops[ours] / median / rates[precision]:.2f}"])
    pairs = {
        "pretraining tokens/s, mlm, over the Trainer recipe, fp32": ("Trainer, fp32", "ours, mlm, fp32"),
        "the same, bf16": ("Trainer, bf16", "ours, mlm, bf16"),
        "ours in bf16 over theirs in fp32": ("Trainer, fp32", "ours, mlm, bf16"),
        "over a plain loop, fp32": ("plain loop, fp32", "ours, mlm, fp32"),
        "ours in bf16 over ours in fp32": ("ours, mlm, fp32", "ours, mlm, bf16"),
        "minijoint over mlm, step time, fp32": ("ours, minijoint, fp32", "ours, mlm, fp32"),
        "minijoint over mlm, step time, bf16": ("ours, minijoint, bf16", "ours, mlm, bf16"),
    }
    ratios = [
        [name, *(f"{value:.3f}" for value in ratio(seconds, *pair))]
        for name, pair in pairs.items()
        if set(pair) <= set(seconds)
    ]
    return "\n".join(
        [
            heading(
                "Pretraining",
                ["torch", "transformers", "accelerate"],
                f"megamini trains on {ratio(seconds, 'Trainer, fp32', 'ours, mlm, fp32')[0]:.2f} times as many tokens "
                "a second as the Trainer of `transformers`, on a CPU in fp32.",
            ),
            f"RoBERTa shape of {options.layers} layers, width {options.hidden}, {options.vocab:,} pieces, exit after",
            f"{options.exit} layers; {tokens:,} tokens an update in blocks of {BLOCK_LENGTH}, {MASKED} masked in each;",
            f"dropout 0.1; forward, backward, clipping, AdamW in one process with {torch.get_num_threads()} threads;",
            f"{options.rounds} interleaved rounds. The table has seconds an update. Utilisation is model FLOPs (ours",
            f"by method, theirs as mlm) over the matrix-multiply rate of {PRODUCTS} products of {SIZE} x {SIZE} a",
            f"round. Its median is {', '.join(f'{name} {rate / 1e9:,.0f} GFLOP/s' for name, rate in rates.items())}.",
            about_rates(precisions),
            "",
            table(["candidate", "median", "fastest", "slowest", "tokens/s", "utilisation"], rows),
            table(["ratio", "of medians", "median of the rounds' ratios"], ratios),
            f"By the FLOPs formula, minijoint over mlm: {flops['minijoint'] / flops['mlm']:.3f}.",
            "",
            "Caveat: the tokens are random, since only shapes matter here. Other work on the machine shows in the",
            "slowest column. All candidates share a process. Ours makes it keep freed memory, which helps theirs too.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

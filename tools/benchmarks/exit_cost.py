"""What the second head costs in pretraining: seconds of an update with MiniJoint over one with plain masked-LM.

python tools/benchmarks/exit_cost.py                                 # base shape, writes exit_cost.md beside this file
python tools/benchmarks/exit_cost.py --layers 2 --hidden 64 --vocab 500 --rounds 3 --out /tmp/exit_cost.md    # a try
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from megamini.compute import BodyShape, ExitShape, training_flops
from megamini.config import Recipe
from megamini.data.batches import Batch
from megamini.models.masked_lm import PrimaryModel
from megamini.training.engines import PlainEngine
from tools.benchmarks.page import heading, table

BLOCK_LENGTH, BLOCKS, MASKED = 128, 32, 19  # 4,096 tokens an update, round(15% of 126) masked in each block


def main() -> None:
    options = _options()
    torch.manual_seed(0)
    batch = _batch(options.vocab)
    engines = {method: _engine(options, method) for method in ("mlm", "minijoint")}
    for engine in engines.values():
        _update(engine, batch)  # the first update allocates
    seconds: dict[str, list[float]] = {method: [] for method in engines}
    for _ in range(options.rounds):
        for method, engine in engines.items():
            started = time.perf_counter()
            _update(engine, batch)
            seconds[method].append(time.perf_counter() - started)
            print(f"{method:10} {seconds[method][-1]:.2f} s", flush=True)
    page = _page(options, seconds)
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"layers": 12, "hidden": 768, "vocab": 50_000, "exit": 0, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    options.exit = options.exit or options.layers // 3
    return options


def _config(options: argparse.Namespace) -> AutoConfig:
    return AutoConfig.for_model(
        "roberta",
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        intermediate_size=4 * options.hidden,
        max_position_embeddings=BLOCK_LENGTH + 2,
    )


def _engine(options: argparse.Namespace, method: str) -> PlainEngine:
    exits = [options.exit] if method == "minijoint" else []
    recipe = Recipe.model_validate(
        {
            "name": method,
            "model": {"family": "roberta", "exits": exits},
            "data": {"path": "none"},
            "objective": {"method": method},
            "optimizer": {"learning_rate": 1e-4},
            "schedule": {"duration": "1 updates", "warmup": "1 updates"},
            "training": {"global_batch": BLOCKS, "micro_batch": BLOCKS, "precision": options.precision},
        }
    )
    model = PrimaryModel(AutoModelForMaskedLM.from_config(_config(options)), exits)
    return PlainEngine(model, recipe.optimizer, recipe.training, accumulation=1, device=torch.device("cpu"))


def _batch(vocab: int) -> Batch:
    """Random tokens: only the shape matters to the time."""
    positions = torch.arange(MASKED) * (BLOCK_LENGTH // MASKED) + 1
    return Batch(
        input_ids=torch.randint(5, vocab, (BLOCKS, BLOCK_LENGTH)),
        positions=(torch.arange(BLOCKS)[:, None] * BLOCK_LENGTH + positions).flatten(),
        labels=torch.randint(5, vocab, (BLOCKS * MASKED,)),
    )


def _update(engine: PlainEngine, batch: Batch) -> None:
    engine.forward_backward(batch)
    engine.step(1e-4)


def _page(options: argparse.Namespace, seconds: dict[str, list[float]]) -> str:
    shape, exits = BodyShape.from_config(_config(options)), (ExitShape(options.exit),)
    arithmetic = training_flops(shape, BLOCK_LENGTH, MASKED, "minijoint", exits) / training_flops(
        shape, BLOCK_LENGTH, MASKED, "mlm"
    )
    ratios = [joint / plain for joint, plain in zip(seconds["minijoint"], seconds["mlm"], strict=True)]
    medians = {method: statistics.median(times) for method, times in seconds.items()}
    rows = [
        [method, f"{medians[method]:.2f}", f"{min(times):.2f}", f"{max(times):.2f}"]
        for method, times in seconds.items()
    ]
    return "\n".join(
        [
            heading("The second head's cost in pretraining", ["torch", "transformers"]),
            f"RoBERTa shape of {options.layers} layers, d {options.hidden}, vocabulary {options.vocab:,}, exit after",
            f"layer {options.exit}; {BLOCKS} blocks of {BLOCK_LENGTH} = {BLOCKS * BLOCK_LENGTH:,} tokens an update,",
            f"{MASKED} masked in each; {options.precision}, dropout 0.1; forward, backward, clipping and AdamW in one",
            f"process with {torch.get_num_threads()} threads; {options.rounds} interleaved rounds. Seconds an update:",
            "",
            table(["method", "median", "fastest", "slowest"], rows),
            f"**MiniJoint over plain masked-LM: {medians['minijoint'] / medians['mlm']:.3f}** (ratio of medians;",
            f"median of the rounds' ratios {statistics.median(ratios):.3f}). By the FLOPs formula: {arithmetic:.3f}.",
            "",
            "Caveat: random tokens, since only shapes matter here; whatever else runs on the machine shows in the",
            "slowest column.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

"""What Muon's step costs beside an update: seconds of both, and the formula of FLOPs, for the page of the optimizers.

python tools/benchmarks/optimizer_step.py               # three shapes, into optimizers/steps.json; a quiet machine
python tools/benchmarks/optimizer_step.py --rounds 2 --shapes 6-128     # a try of one

A micro-batch's forward and backward pass, and the step, are timed apart, in interleaved rounds of both optimizers: an
update of many micro-batches is so many times the first and once the second.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import AutoModelForMaskedLM

from megamini.costs.flops import BodyShape, ExitShape, muon_flops, training_flops
from megamini.models.primary_model import PrimaryModel
from megamini.recipes.optimizer import MuonSection, PretrainingOptimizerSection
from megamini.recipes.sections import TrainingSection
from megamini.training.engines.plain_engine import PlainEngine
from tools.benchmarks.page import hardware
from tools.benchmarks.updates import BLOCK_LENGTH, BLOCKS, MASKED, random_batch, roberta_config

OUT = Path(__file__).with_name("optimizers") / "steps.json"
# Layers and width by name, with the pieces of its vocabulary.
SHAPES = {"6-128": (6, 128, 8_000), "12-192": (12, 192, 16_000), "12-768": (12, 768, 50_000)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    result = {"hardware": hardware(), "threads": torch.get_num_threads(), "rounds": options.rounds, "shapes": {}}
    for name in options.shapes:
        result["shapes"][name] = measure(*SHAPES[name], options.rounds)
        print(name, json.dumps(result["shapes"][name]), flush=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(layers: int, hidden: int, vocab: int, rounds: int) -> dict:
    """Median seconds of a micro-batch of 4,096 tokens and of a step, by optimizer; FLOPs of both by formula."""
    torch.manual_seed(0)
    sizes = argparse.Namespace(layers=layers, hidden=hidden, vocab=vocab, exit=layers // 3)
    batch = random_batch(vocab)
    engines = {name: engine(sizes, name) for name in ("adamw", "muon")}
    seconds: dict[str, list[float]] = {}
    for round_number in range(rounds + 1):
        for name, own in engines.items():
            started = time.perf_counter()
            own.forward_backward(batch)
            between = time.perf_counter()
            own.step(1e-4)
            if round_number:  # the first one allocates
                seconds.setdefault("pass", []).append(between - started)
                seconds.setdefault(name, []).append(time.perf_counter() - between)
    shape, exits = BodyShape.from_config(roberta_config(sizes)), (ExitShape(sizes.exit),)
    return {
        "tokens": BLOCKS * BLOCK_LENGTH,
        **{name: round(statistics.median(times), 5) for name, times in seconds.items()},
        "flops": BLOCKS * training_flops(shape, BLOCK_LENGTH, MASKED, "minijoint", exits),
        "muon_flops": muon_flops(shape, "minijoint", exits, MuonSection().newton_schulz_steps),
    }


def engine(sizes: argparse.Namespace, name: str) -> PlainEngine:
    model = PrimaryModel(AutoModelForMaskedLM.from_config(roberta_config(sizes)), exits=(sizes.exit,))
    optimizer = PretrainingOptimizerSection(learning_rate=1e-4, name=name)
    training = TrainingSection(global_batch=BLOCKS, micro_batch=BLOCKS, precision="fp32")
    return PlainEngine(model, optimizer, training, 1, torch.device("cpu"))


if __name__ == "__main__":
    main()

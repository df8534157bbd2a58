"""What the second head costs in pretraining: seconds of an update with MiniJoint over one with plain masked-LM.

python tools/benchmarks/exit_cost.py                                 # base shape, writes exit_cost.md beside this file
python tools/benchmarks/exit_cost.py --layers 3 --hidden 64 --vocab 500 --rounds 3 --out /tmp/exit_cost.md    # a try
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from megamini.costs.flops import BodyShape, ExitShape, training_flops
from tools.benchmarks.page import heading, table
from tools.benchmarks.pretraining import METHODS, pretraining_engine, pretraining_update
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


def main() -> None:
    options = parse(update_options(__doc__, Path(__file__).with_suffix(".md")))
    torch.manual_seed(0)
    batch = random_batch(options.vocab)
    updates = {
        method: partial(pretraining_update, pretraining_engine(options, method, options.precision), batch)
        for method in METHODS
    }
    page = _page(options, interleaved(updates, options.rounds))
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _page(options: argparse.Namespace, seconds: dict[str, list[float]]) -> str:
    shape, exits = BodyShape.from_config(roberta_config(options)), (ExitShape(options.exit),)
    arithmetic = training_flops(shape, BLOCK_LENGTH, MASKED, "minijoint", exits) / training_flops(
        shape, BLOCK_LENGTH, MASKED, "mlm"
    )
    of_medians, of_rounds = ratio(seconds, "minijoint", "mlm")
    return "\n".join(
        [
            heading(
                "The second head's cost in pretraining",
                ["torch", "transformers"],
                f"The second head makes an update of pretraining {of_medians - 1:.1%} longer.",
            ),
            f"RoBERTa shape of {options.layers} layers, width {options.hidden}, {options.vocab:,} pieces, exit after",
            f"layer {options.exit}; {BLOCKS} blocks of {BLOCK_LENGTH} = {BLOCKS * BLOCK_LENGTH:,} tokens an update,",
            f"{MASKED} masked in each; {options.precision}, dropout 0.1; forward, backward, clipping and AdamW in one",
            f"process with {torch.get_num_threads()} threads; {options.rounds} interleaved rounds. Seconds an update:",
            "",
            table(["method", "median", "fastest", "slowest"], spread(seconds)),
            f"**MiniJoint over plain masked-LM: {of_medians:.3f}** (ratio of medians; median of the rounds' ratios",
            f"{of_rounds:.3f}). By the FLOPs formula: {arithmetic:.3f}.",
            "",
            "Caveat: the tokens are random, since only shapes matter here. Other work on the machine shows in the",
            "slowest column.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

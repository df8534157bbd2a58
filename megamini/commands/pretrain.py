"""Pretrain a language model, with a mini-model inside it (MiniJoint) or without (mlm; causal for a decoder).

    deepspeed launch/pretrain.py launch/recipes/base/minijoint.yaml --deepspeed_config ds_configs/zero2.json
    deepspeed --num_gpus 2 launch/pretrain.py launch/recipes/quickstart/pretrain.yaml   # on a CPU: 2 processes
    python launch/pretrain.py launch/recipes/quickstart/pretrain.yaml                   # one process, no DeepSpeed
    python launch/pretrain.py launch/recipes/quickstart/pretrain.yaml --dry-run optimizer.learning_rate=1e-3

The same command again continues from the newest complete checkpoint.
"""

import argparse
import os

from megamini.errors import run_command
from megamini.machine import is_first_rank
from megamini.recipes.command_line import RecipeParser
from megamini.recipes.recipe import Recipe, dump_recipe, load_recipe
from megamini.training.safety.signals import hold_scheduler_signal


def main() -> None:
    hold_scheduler_signal()
    parser = RecipeParser(__doc__, Recipe)
    parser.add_argument("--deepspeed_config", metavar="JSON", help="sharding, offload, communication (default: ZeRO-1)")
    parser.add_argument("--ranks", type=int, metavar="N", help="number of ranks to plan for (with --dry-run)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    arguments = parser.parse_intermixed_args()
    if arguments.recipe is None:
        print(parser.overview())
        return

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    from megamini.training.engines.deepspeed_config import DEFAULT, check_combination, read_deepspeed_json
    from megamini.training.engines.precision import resolve_precision
    from megamini.training.pretraining import build_setup
    from megamini.training.run import pretrain_deepspeed, pretrain_plain

    values = read_deepspeed_json(arguments.deepspeed_config) if arguments.deepspeed_config else DEFAULT
    if arguments.dry_run:
        ranks = arguments.ranks or int(os.environ.get("WORLD_SIZE", "1"))
        if arguments.deepspeed_config or ranks > 1:
            check_combination(values, recipe.training.precision)
        if arguments.deepspeed_config:
            from megamini.training.engines.deepspeed_engine import check_zero_section

            check_zero_section(values, arguments.deepspeed_config)
        setup = build_setup(resolve_precision(recipe), ranks)
        if is_first_rank():
            print(f"{dump_recipe(setup.recipe)}\nplan\n{setup.plan()}")
    elif "RANK" in os.environ or arguments.deepspeed_config:
        pretrain_deepspeed(recipe, values, arguments.deepspeed_config or "the default configuration")
    else:
        pretrain_plain(recipe)


if __name__ == "__main__":
    run_command(main)

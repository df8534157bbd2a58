"""Fine-tune a primary model on tasks in its source language, token embeddings frozen, for one seed or several.

    python launch/finetune.py launch/recipes/quickstart/finetune.yaml
    python launch/finetune.py launch/recipes/tasks/xnli.yaml tasks.xnli.path=data/xnli "training.seeds=[0, 1, 2]"
    deepspeed --num_gpus 2 launch/finetune.py launch/recipes/tasks/squad.yaml --deepspeed_config ds_configs/zero2.json

Each seed becomes an ordinary checkpoint, runs/NAME/TASK/seed-N. The same command again continues after an interruption.
"""

import argparse
import os

from megamini.downstream.recipe import FinetuneRecipe
from megamini.errors import run_command
from megamini.machine import is_first_rank
from megamini.recipes.command_line import RecipeParser
from megamini.recipes.file import read_recipe
from megamini.recipes.recipe import dump_recipe


def main() -> None:
    parser = RecipeParser(__doc__, FinetuneRecipe)
    parser.add_argument("--deepspeed_config", metavar="JSON", help="sharding, offload, communication (default: ZeRO-1)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    arguments = parser.parse_intermixed_args()
    if arguments.recipe is None:
        print(parser.overview())
        return
    recipe = read_recipe(arguments.recipe, arguments.overrides, FinetuneRecipe)
    deepspeed = None
    if "RANK" in os.environ or arguments.deepspeed_config:
        from megamini.downstream.finetuning.deepspeed import trainer_configuration
        from megamini.training.engines.precision import near_fp32, resolve_precision

        recipe = resolve_precision(recipe, best=near_fp32)
        deepspeed = trainer_configuration(arguments.deepspeed_config, recipe.training.precision)
    from megamini.downstream.finetuning.finetune import finetune, plan

    if not arguments.dry_run:
        finetune(recipe, deepspeed)
    elif is_first_rank():
        print(f"{dump_recipe(recipe)}\nplan\n{plan(recipe)}")


if __name__ == "__main__":
    run_command(main)

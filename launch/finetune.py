"""Fine-tune a primary model on tasks in its source language, token embeddings frozen, for one seed or several.

    python launch/finetune.py launch/recipes/tasks/libreoffice.yaml
    python launch/finetune.py launch/recipes/tasks/xnli.yaml tasks.xnli.path=data/xnli "training.seeds=[0, 1, 2]"
    deepspeed --num_gpus 2 launch/finetune.py launch/recipes/tasks/squad.yaml --deepspeed_config ds_configs/zero2.json

Each seed becomes an ordinary checkpoint, runs/NAME/TASK/seed-N. The same command again goes on after an interruption.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works from a checkout, without installing

from megamini.errors import CommandParser, run_command  # noqa: E402


def main() -> None:
    from megamini.downstream.recipe import FinetuneRecipe, options_text
    from megamini.recipe_file import read_recipe

    parser = CommandParser(__doc__)
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe, such as those in launch/recipes/tasks")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    parser.add_argument("--deepspeed_config", metavar="JSON", help="sharding, offload, communication (default: ZeRO-1)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    parser.epilog = f"options of a recipe (defaults):\n{options_text(FinetuneRecipe)}"
    arguments = parser.parse_intermixed_args()
    if arguments.recipe is None:
        print(f"{parser.format_usage()}\n{__doc__}\n--help lists the options of a recipe")
        return

    recipe = read_recipe(arguments.recipe, arguments.overrides, FinetuneRecipe)
    deepspeed = None
    if "RANK" in os.environ or arguments.deepspeed_config:
        from megamini.downstream.deepspeed import trainer_configuration

        deepspeed = trainer_configuration(arguments.deepspeed_config, recipe.training.precision)
    from megamini.downstream.finetune import finetune

    finetune(recipe, deepspeed)


if __name__ == "__main__":
    run_command(main)

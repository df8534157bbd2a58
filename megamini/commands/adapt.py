"""Teach a pretrained model a new language: learn token embeddings over a frozen body, on a GPU, several, or a CPU.

    python launch/adapt.py launch/recipes/quickstart/adapt_mini.yaml               # over the mini-model of an exit
    python launch/adapt.py launch/recipes/quickstart/adapt_standard.yaml           # over the whole primary model
    python launch/adapt.py launch/recipes/my_language.yaml adaptation.source=FOLDER data.path=data/xx
    python launch/adapt.py launch/recipes/my_language.yaml adaptation.source=FOLDER "data.path=[data/xx, data/yy]"
    torchrun --nproc_per_node 8 launch/adapt.py launch/recipes/my_language.yaml ...     # on the 8 GPUs of this machine

The language pack is then in RUN/packs/LANG. The same command again continues from the newest complete checkpoint, on
any number of GPUs.
"""

import os

from megamini.adaptation.recipe import AdaptationRecipe, load_adaptation_recipe
from megamini.errors import run_command
from megamini.machine import is_first_rank
from megamini.recipes.command_line import RecipeParser
from megamini.recipes.recipe import dump_recipe
from megamini.training.safety.signals import hold_scheduler_signal


def main() -> None:
    hold_scheduler_signal()
    parser = RecipeParser(__doc__, AdaptationRecipe)
    arguments = parser.parse_intermixed_args()
    if arguments.recipe is None:
        print(parser.overview())
        return
    recipe = load_adaptation_recipe(arguments.recipe, arguments.overrides)
    from transformers.utils.logging import disable_progress_bar

    from megamini.adaptation.relearn import adapt
    from megamini.adaptation.relearning.build import build_setup
    from megamini.training.engines.precision import resolve_precision

    disable_progress_bar()  # the library's bars for loading say little and pass in a second
    if arguments.dry_run:
        recipe = resolve_precision(recipe)
        setup = build_setup(recipe, int(os.environ.get("WORLD_SIZE", "1")))
        if is_first_rank():
            print(f"{dump_recipe(recipe)}\nplan\n{setup.plan()}")
    else:
        adapt(recipe)


if __name__ == "__main__":
    run_command(main)

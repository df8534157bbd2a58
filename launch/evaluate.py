"""Evaluate fine-tuned models in their source language and, by language packs, in every other: zero-shot.

    python launch/evaluate.py RECIPE
    python launch/evaluate.py RECIPE tasks.xnli.split=dev "tasks.xnli.languages=[en, de]" packs.de=runs/de/packs/de

Writes results.json, summary.json (mean and deviation over seeds) and table.md into the run directory.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works from a checkout, without installing

from megamini.errors import CommandParser, run_command  # noqa: E402


def main() -> None:
    from megamini.downstream.recipe import EvaluateRecipe, options_text
    from megamini.recipe_file import read_recipe

    parser = CommandParser(__doc__)
    parser.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="a recipe, such as launch/recipes/tasks/evaluate.yaml"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    parser.epilog = f"options of a recipe (defaults):\n{options_text(EvaluateRecipe)}"
    arguments = parser.parse_intermixed_args()
    if arguments.recipe is None:
        print(f"{parser.format_usage()}\n{__doc__}\n--help lists the options of a recipe")
        return

    recipe = read_recipe(arguments.recipe, arguments.overrides, EvaluateRecipe)
    from megamini.downstream.evaluate import evaluate

    evaluate(recipe)


if __name__ == "__main__":
    run_command(main)

"""Evaluate fine-tuned models in their source language and, with language packs, in other languages: zero-shot.

    python launch/evaluate.py launch/recipes/quickstart/evaluate.yaml
    python launch/evaluate.py RECIPE name=dev tasks.xnli.split=dev "tasks.xnli.languages=[en]" packs.de=runs/de/packs/de

Writes results.json into the run directory while it measures, and at the end summary.json (mean and deviation over
seeds) and table.md. With evaluation.keep_scores=true, it also writes scores.jsonl, the score of each test example. The
same command again keeps what is measured, and continues. If the recipe has more packs by then, it measures these too.
"""

from megamini.downstream.recipe import EvaluateRecipe
from megamini.errors import run_command
from megamini.recipes.command_line import RecipeParser
from megamini.recipes.file import read_recipe
from megamini.recipes.recipe import dump_recipe


def main() -> None:
    parser = RecipeParser(__doc__, EvaluateRecipe)
    arguments = parser.parse_intermixed_args()
    if arguments.recipe is None:
        print(parser.overview())
        return
    recipe = read_recipe(arguments.recipe, arguments.overrides, EvaluateRecipe)
    from megamini.downstream.evaluation.evaluate import evaluate, plan

    if arguments.dry_run:
        print(f"{dump_recipe(recipe)}\nplan\n{plan(recipe)}")
    else:
        evaluate(recipe)


if __name__ == "__main__":
    run_command(main)

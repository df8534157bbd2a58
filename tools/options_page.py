"""Write docs/options.md: every option of every kind of recipe, from the docstrings of the code.

python tools/options_page.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megamini.errors import CommandParser, run_command, writing

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
HEAD = """# All options

Every key of every recipe, with its default and its meaning. `needed` has no default; `unset` means: not given.
Set a key in the recipe, or on the command line as `section.key=value`. `--help` of each command shows the same.
This page is generated from the code by `python tools/options_page.py`: do not edit it by hand.
"""


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, metavar="FILE", help="the page to write")
    options = parser.parse_args()
    with writing(options.out):
        options.out.write_text(page(), encoding="utf-8")
    print(options.out)


def page() -> str:
    """The page, as Markdown."""
    from megamini.adaptation.recipe import AdaptationRecipe
    from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
    from megamini.recipes.options import options_table
    from megamini.recipes.recipe import Recipe

    kinds = {
        "Pretraining": ("`launch/pretrain.py`", Recipe),
        "Adaptation": ("`launch/adapt.py`", AdaptationRecipe),
        "Fine-tuning": ("`launch/finetune.py`; NAME is the name of a task", FinetuneRecipe),
        "Evaluation": ("`launch/evaluate.py`; NAME is the name of a task", EvaluateRecipe),
    }
    sections = (f"## {title}\n\nFor {command}.\n\n{options_table(kind)}\n" for title, (command, kind) in kinds.items())
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    run_command(main)

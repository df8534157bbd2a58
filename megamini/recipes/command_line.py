"""Command lines that take a recipe: RECIPE, `section.key=value` changes, --dry-run, and a full --help."""

from pathlib import Path

import yaml
from pydantic import BaseModel

from megamini.errors import CommandParser
from megamini.recipes.options import options_text
from megamini.recipes.shipped import RECIPES, ROOT


class RecipeParser(CommandParser):
    """`kind`: the recipes that this entry point takes; --help lists those that come along, and every option."""

    def __init__(self, description: str | None, kind: type[BaseModel]) -> None:
        super().__init__(description)
        self.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe, such as those listed below")
        self.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
        self.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the plan, then exit")
        self._kind = kind

    def format_help(self) -> str:
        self.epilog = f"{self._recipes()}\n\noptions of a recipe (defaults):\n{options_text(self._kind)}"
        return super().format_help()

    def overview(self) -> str:
        """What a call without arguments prints."""
        text = f"{self.format_usage()}\n{self.description}\n{self._recipes()}\n\n--help lists the options of a recipe"
        return self.worded(text)

    def _recipes(self) -> str:
        names = [f"  {path.relative_to(ROOT)}" for path in recipes_of(self._kind)]
        return "\n".join(["recipes that come along:", *names])


def recipes_of(kind: type[BaseModel]) -> list[Path]:
    """The recipes that come along and are of this kind: with every section that it needs and no other."""
    sections = kind.model_fields
    needed = {name for name, info in sections.items() if info.is_required()}
    return [path for path in sorted(RECIPES.rglob("*.yaml")) if needed <= _sections_in(path) <= sections.keys()]


def _sections_in(path: Path) -> set[str]:
    return set(yaml.safe_load(path.read_text(encoding="utf-8")))

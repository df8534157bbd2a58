"""Command lines that take a recipe: RECIPE, `section.key=value` changes, --dry-run, and a full --help."""

from pathlib import Path

from pydantic import BaseModel

from megamini.errors import CommandParser
from megamini.options import options_text

_RECIPES = Path(__file__).resolve().parents[1] / "launch" / "recipes"


class RecipeParser(CommandParser):
    """`marker`: the section that tells this entry point's recipes from the others' among those that come along."""

    def __init__(self, description: str | None, kind: type[BaseModel], marker: str) -> None:
        super().__init__(description)
        self.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe, such as those listed below")
        self.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
        self.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the plan, then exit")
        self._marker = marker
        self.epilog = f"{self.recipes()}\n\noptions of a recipe (defaults):\n{options_text(kind)}"

    def recipes(self) -> str:
        """The recipes that come along."""
        paths = sorted(path for path in _RECIPES.rglob("*.yaml") if f"\n{self._marker}:" in path.read_text("utf-8"))
        names = [f"  {path.relative_to(_RECIPES.parents[1])}" for path in paths]
        return "\n".join(["recipes that come along:", *names])

    def overview(self) -> str:
        """What a call without arguments prints."""
        return f"{self.format_usage()}\n{self.description}\n{self.recipes()}\n\n--help lists the options of a recipe"

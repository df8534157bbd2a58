"""Cases of recipes that PyYAML, or a message, could not take."""

import pytest
import yaml

from megamini.errors import UserError
from megamini.recipes.file import read_recipe
from megamini.recipes.recipe import Recipe
from tests.launch.workplace import RECIPE

VALUES = [
    "2001-99-99",
    "2001-02-30 25:00:00",
    "9" * 5000,
    "-" + "8" * 5000,
    "[" * 1200,
    "[" * 1200 + "]" * 1200,
    "{a: " * 1200 + "}" * 1200,
    "!!int x",
    "!!int",
    "!!bool x",
    "!!float []",
    "!!python/object:os.system x",
    "!!timestamp x",
    "!!binary '='",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_that_cannot_be_built_is_one_line(value, tmp_path):
    good = tmp_path / "good.yaml"
    good.write_text(yaml.safe_dump(RECIPE))
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(RECIPE) + f"x: {value}\n")
    for path, overrides in ((bad, []), (good, [f"schedule.duration={value}"])):
        with pytest.raises(UserError) as caught:
            read_recipe(path, overrides, Recipe)
        assert "\n" not in str(caught.value) and str(overrides[0] if overrides else path)[:20] in str(caught.value)


@pytest.mark.parametrize("key", ["int", "str", "none", "null", "list[str]", "bool", "~", "5", "2001-01-01"])
def test_a_key_may_have_any_name(key, tmp_path):
    path = tmp_path / "recipe.yaml"
    for text in (
        f"{key}: 1\n{yaml.safe_dump(RECIPE)}",
        yaml.safe_dump(RECIPE).replace("optimizer:", f"optimizer:\n  {key}: 1"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"^[^\n]*recipe\.yaml: [^\n]*$"):
            read_recipe(path, [], Recipe)

"""The options that people read are those of the code."""

import pytest

from megamini.adaptation.recipe import AdaptationRecipe
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.recipes.options import options, options_table
from megamini.recipes.recipe import Recipe
from tools import options_page


@pytest.mark.parametrize("kind", [Recipe, AdaptationRecipe, FinetuneRecipe, EvaluateRecipe])
def test_every_option_says_what_it_means(kind):
    for key, _, meaning in options(kind):
        assert len(meaning) > 15, f"{key} has no docstring"


def test_sections_are_entered_and_defaults_shown():
    found = {key: default for key, default, _ in options()}
    assert found["optimizer.learning_rate"] == "needed"
    assert found["optimizer.betas"] == "[0.9, 0.98]"
    assert found["objective.forgetting.every"] == "needed with its section"
    assert found["model.exits"] == "unset"
    assert found["checkpoint.resume"] == "true"


def test_choices_are_named():
    meanings = {key: meaning for key, _, meaning in options()}
    assert meanings["schedule.shape"].endswith("One of: linear, cosine, warmup-stable-decay.")
    assert "modernbert" in meanings["model.family"]


@pytest.mark.parametrize("kind", [Recipe, AdaptationRecipe, FinetuneRecipe, EvaluateRecipe])
def test_the_page_has_the_table_of_the_code(kind):
    assert options_table(kind) in options_page.PAGE.read_text(encoding="utf-8"), "run python tools/options_page.py"


def test_the_page_is_the_one_that_its_command_writes():
    assert options_page.PAGE.read_text(encoding="utf-8") == options_page.page(), "run python tools/options_page.py"

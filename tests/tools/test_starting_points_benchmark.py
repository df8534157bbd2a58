"""The benchmark of starting points: its recipes are valid, and its page says what was measured."""

import pytest

from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.downstream.results import Mean
from megamini.training.schedule import build_schedule
from tools.benchmarks import starting_points
from tools.benchmarks.page import ROOT


@pytest.mark.parametrize("updates", [2, 50, 1500])
@pytest.mark.parametrize("start", [*starting_points.STARTS, *starting_points.OUTSIDERS])
def test_every_start_is_a_valid_recipe(start, updates):
    recipe = load_adaptation_recipe(
        ROOT / starting_points.RECIPES / "adapt_mini.yaml", starting_points.changes(start, "de", updates)
    )
    section = recipe.adaptation
    schedule = build_schedule(recipe.schedule, recipe.optimizer.learning_rate, 2048)  # its warm-up fits
    assert schedule.updates == updates
    assert ("parallel" in start or "both" in start) == (section.parallel is not None)
    assert ("word list" in start or "both" in start) == (section.lexicon is not None)


def test_the_page_has_each_language_and_their_mean(monkeypatch):
    monkeypatch.setattr(starting_points, "heading", lambda title, packages: f"# {title}")  # it names the script

    def cells(accuracy):
        return {
            ("focus", step): {
                "accuracy": Mean("libreoffice", "xx", "s0", "accuracy", accuracy + step / 1000, 0.01, 3, 380),
                "bits_per_byte": Mean("bits_per_byte", "xx", "s0", "bits_per_byte", 1.5, None, 1, 100),
            }
            for step in (0, 50)
        }

    page = starting_points._page({"de": cells(0.5), "es": cells(0.7)}, ["focus"], [0, 50])
    assert "### de" in page and "### es" in page and "### Mean of 2 languages" in page
    assert "| focus | 50.0 ± 1.0 | 55.0 ± 1.0 |" in page
    assert "| focus | 60.0 ± 127.1 | 65.0 ± 127.1 |" in page  # t(1, 97.5%) = 12.7, over 2 languages 20 points apart
    assert "| focus | 1.500 | 1.500 |" in page

"""What pretraining counts of attention: with flash attention, only what ModernBERT's windows see."""

from pathlib import Path

from megamini.recipes.recipe import Recipe
from megamini.training.pretraining import build_setup
from tests.integration.cases import Case
from tests.integration.conftest import Lab


def test_windows_count_where_the_kernel_skips(lab: Lab, tmp_path: Path) -> None:
    setups = {}
    for attention in ("sdpa", "flash_attention_2"):
        values = Case(family="modernbert", precision="bf16").recipe(lab.data(), tmp_path)
        values["model"]["attention"] = attention
        setups[attention] = build_setup(Recipe.model_validate(values), 1)
    square, windows = setups.values()
    assert (square.shape.skips_outside_span, windows.shape.skips_outside_span) == (False, True)
    assert windows.cost((), 0).flops < square.cost((), 0).flops

"""Hours of adaptation: by hand, and the page's table."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from megamini.costs.flops import BodyShape, training_flops
from megamini.costs.hours import hours_in_words, hours_on_gpus, in_words

PAGE = Path(__file__).parents[2] / "docs/adding-a-language.md"
ROWS = [
    ("4 layers of base shape", 4, 768),
    ("12 layers of base shape", 12, 768),
    ("24 layers of large shape", 24, 1024),
]


def test_by_hand():
    """312 TFLOP/s at 40% are 449 PFLOP an hour."""
    found = hours_on_gpus(312e12 * 0.4 * 3600)
    assert found["A100"] == pytest.approx(1) and found["8 x A100"] == pytest.approx(1 / 8)
    assert found["T4"] == pytest.approx(312 / 65)
    assert hours_in_words(312e12 * 0.4 * 3600).endswith("A100 1 h, 8 x A100 0.12 h; computed at 40% of peak")
    assert hours_in_words(1e11 * 0.4 * 7200, cpu_rate=1e11).startswith("this CPU 2 h, T4 ")


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (172_799, "48.0 h"),
        (1e6, "11.6 days"),
    ],
)
def test_a_time_in_its_largest_unit(seconds, words):
    assert in_words(seconds) == words


@pytest.mark.parametrize("title, layers, width", ROWS)
def test_the_page_has_what_the_plan_computes(title, layers, width):
    """A billion tokens in blocks of 512, 15% predicted, 30,000 pieces."""
    config = AutoConfig.for_model(
        "xlm-roberta", vocab_size=30_000, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64,
        intermediate_size=4 * width, max_position_embeddings=514, pad_token_id=1,
    )  # fmt: skip
    flops = 1e9 / 512 * training_flops(BodyShape.from_config(config), 512, 77, "standard")
    cells = " | ".join(f"{hours:.2g}" for hours in hours_on_gpus(flops).values())
    assert f"| {title} | {cells} |" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name, layers", [("adapt_mini", 4), ("adapt_standard", 12)])
def test_the_recipes_page_too(name, layers):
    """At the published length: 125,000 updates of 2,048 blocks, 50,000 pieces."""
    config = AutoConfig.for_model("roberta", vocab_size=50_000, num_hidden_layers=layers, max_position_embeddings=514)
    hours = hours_on_gpus(125_000 * 2048 * training_flops(BodyShape.from_config(config), 512, 77, "standard"))
    row = f"| {layers} layers (`{name}.yaml`) | {hours['A100']:.0f} | {hours['8 x A100']:.2g} |"
    assert row in (PAGE.parents[1] / "launch/recipes/README.md").read_text(encoding="utf-8")

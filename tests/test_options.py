"""The options that people read are those of the code."""

from pathlib import Path

from megamini.options import options, options_table

README = Path(__file__).parents[1] / "README.md"


def test_every_option_says_what_it_means():
    for key, _, meaning in options():
        assert len(meaning) > 15, f"{key} has no docstring in megamini/config.py"


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


def test_the_readmes_table_is_the_one_of_the_code():
    assert options_table() in README.read_text(encoding="utf-8"), (
        "README.md: replace the table of options by what `python -c 'from megamini.options import options_table; "
        "print(options_table())'` prints"
    )

"""Pretraining on several languages with weights: trains, validates each, resumes, exports; misfits are named."""

from pathlib import Path

import pytest
import yaml

from megamini.data.preparation.prepare import Settings, prepare
from megamini.errors import UserError
from megamini.models.export import export_checkpoint
from megamini.recipes.recipe import load_recipe
from megamini.training.finished.model_card import describe, model_card
from megamini.training.finished.weights import load_run
from megamini.training.pretraining import build_setup
from megamini.training.run import pretrain_plain
from tests.integration.cases import BLOCK_LENGTH, Case
from tests.integration.launching import read_scalars

PROSE = Path(__file__).parent / "prose.txt"
GERMAN = "\n\n".join(
    f"Der Wagen Nummer {number} steht im Hof, und niemand weiß, wem er gehört; die Räder sind alt und das Dach ist "
    f"undicht, doch am Morgen des {number}. Tages wird ihn jemand holen und über den Hügel in die Stadt fahren."
    for number in range(1, 90)
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """English, German in its pieces, and others that do not fit to it."""
    folder = tmp_path_factory.mktemp("languages")
    (folder / "german.txt").write_text(GERMAN)
    english = {"tokenizer": str(folder / "en")}
    settings = {
        "en": (PROSE, {"language": "en", "vocab_size": 400}),
        "de": (folder / "german.txt", {"language": "de", **english}),
        "own-pieces": (folder / "german.txt", {"language": "de", "vocab_size": 401}),
        "longer": (folder / "german.txt", {"language": "de", **english, "block_length": 2 * BLOCK_LENGTH}),
        "en-again": (PROSE, {"language": "en", **english}),
        "de-again": (folder / "german.txt", {"language": "de", **english}),
    }
    for name, (text, how) in settings.items():
        how = {"block_length": BLOCK_LENGTH, "validation_share": 0.2} | how
        prepare([str(text)], folder / name, Settings(**how), processes=1)
    return folder


def recipe(data: Path, runs: Path, *names: str, **overrides: str):
    values = Case(stage=None, ranks=1).recipe(data / "en", runs)
    (runs / "recipe.yaml").write_text(yaml.safe_dump({**values, "model": {**values["model"], "exits": [2]}}))
    changes = {"name": "both", "data.path": f"[{', '.join(str(data / name) for name in names)}]"} | overrides
    return load_recipe(runs / "recipe.yaml", [f"{key}={value}" for key, value in changes.items()])


def test_two_languages_train_validate_resume_and_export(data, tmp_path):
    weights = {"data.weights": "[0.75, 0.25]", "checkpoint.every": "10 updates"}
    pretrain_plain(recipe(data, tmp_path, "en", "de", **weights, **{"schedule.duration": "10 updates"}))
    pretrain_plain(recipe(data, tmp_path, "en", "de", **weights))
    scalars = read_scalars(tmp_path / "both")
    last = {name: values[20] for name, values in scalars.items() if name.startswith("validation/loss_")}
    for head in ("primary", "exit_2", "unigram"):
        mean = (last[f"validation/loss_{head}_en"] + last[f"validation/loss_{head}_de"]) / 2
        assert last[f"validation/loss_{head}"] == pytest.approx(mean)
    assert sorted(scalars["train/loss"]) == list(range(1, 21))

    with pytest.raises(UserError, match=r"data\.path: not the data"):
        changed = {**weights, "data.weights": "[0.5, 0.5]", "schedule.duration": "30 updates"}
        pretrain_plain(recipe(data, tmp_path, "en", "de", **changed))

    run = load_run(tmp_path / "both")
    about = describe(run, None)
    assert about["language"] == "en, de"
    card = model_card(run, about)
    assert "language: [en, de]" in card
    assert "german.txt" in card
    assert "- changed after update 10: schedule.duration: 10 updates -> 20 updates" in card
    first = load_run(tmp_path / "both/checkpoints/step-00000010")
    assert "duration: 10 updates" in model_card(first, describe(first, None))
    export_checkpoint(run.model.model, run.tokenizer, tmp_path / "out", about, card)


def test_what_is_measured_alone_is_not_learned_from(data, tmp_path):
    """The run is the one on the read text; the other text's loss is what that run has on it."""
    short = {"schedule.duration": "6 updates"}
    runs = {"alone": {}, "watched": {"data.measured": f"[{data / 'en'}]"}}
    for name, changes in runs.items():
        pretrain_plain(recipe(data, tmp_path, "de", name=name, **short, **changes))
    alone, watched = (read_scalars(tmp_path / name) for name in runs)
    for name in ("train/loss", "validation/loss_primary"):
        assert watched[name] == alone[name]
    assert watched["validation/loss_primary_de"] == alone["validation/loss_primary"]
    assert set(watched["validation/loss_primary_en"]) == set(alone["validation/loss_primary"])
    twice = {"name": "twice", "data.measured": f"[{data / 'de'}]"}
    with pytest.raises(UserError, match=r"data\.measured names a data directory that is there already"):
        recipe(data, tmp_path, "de", **twice)
    for others, words in (
        (("own-pieces",), "different tokenizers"),
        (("longer",), "have blocks of"),
        (("en-again",), "both of language 'en'; a language is measured once"),
        (("de", "de-again"), "both of language 'de'; a language is measured once"),
    ):
        measured = f"[{', '.join(str(data / other) for other in others)}]"
        with pytest.raises(UserError, match=rf"^data\.measured: .* {words}"):
            build_setup(recipe(data, tmp_path, "en", **{"data.measured": measured}), 1)


def test_shares_follow_the_blocks_by_default(data, tmp_path):
    setup = build_setup(recipe(data, tmp_path, "en", "de"), 1)
    blocks = [len(text.train) for text in setup.texts]
    read = setup.shares.read_before(1000)
    assert [count / sum(read) for count in read] == pytest.approx([n / sum(blocks) for n in blocks], abs=1e-3)
    assert f"over {sum(blocks):,} blocks" in setup.plan()


@pytest.mark.parametrize(
    ("names", "changes", "words"),
    [
        (("en", "own-pieces"), {}, "have different tokenizers; prepare the second with --tokenizer"),
        (("en", "longer"), {}, f"have blocks of {BLOCK_LENGTH} and {2 * BLOCK_LENGTH}"),
        (("en", "en-again"), {}, "are both of language 'en'"),
        (("en", "en"), {}, "data.path names a data directory twice"),
        (("en", "de"), {"data.weights": "[1.0]"}, "data.weights needs 2 positive numbers"),
        (("en", "de"), {"data.weights": "[1.0, 0.0]"}, "data.weights needs 2 positive numbers"),
        (("en", "nowhere"), {}, "nowhere: no finished data directory"),
    ],
)
def test_what_does_not_fit_is_one_line(names, changes, words, data, tmp_path):
    with pytest.raises(UserError) as raised:
        build_setup(recipe(data, tmp_path, *names, **changes), 1)
    assert words in str(raised.value)

"""`initialise: distil`: rows learn until hidden states match; what matched is told, and what it cost is in the pack."""

import json
from pathlib import Path

import pytest
import torch

from megamini.adaptation import distillation, starts
from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.recipe import load_adaptation_recipe
from megamini.adaptation.relearning.build import build_setup
from megamini.adaptation.starting_points.piece_forms import piece_forms, shared_pieces
from megamini.costs.flops import BodyShape, body_forward_flops, training_flops
from megamini.data.preparation.prepare import Settings, prepare
from megamini.errors import UserError
from tests.integration.adapting import UPDATES, Workshop
from tests.integration.cases import BLOCK_LENGTH
from tests.integration.conftest import _PROSE, Lab

pytestmark = pytest.mark.launched

_CIPHER = str.maketrans("abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm")  # a language of the same words


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("distillation"))


@pytest.fixture
def few_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "UPDATES", 30)


def setup_of(shop: Workshop, **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return build_setup(load_adaptation_recipe(shop.recipe("start", {"adaptation.initialise": "distil"} | changes)))


@pytest.fixture(scope="module")
def data(shop: Workshop):
    """Text in a language whose every word is one of the source's."""
    text, out = shop.folder / "cipher.txt", shop.folder / "data-cipher"
    text.write_text(_PROSE.read_text().lower().translate(_CIPHER))
    prepare([str(text)], out, Settings("de", 420, block_length=BLOCK_LENGTH, validation_share=0.2), processes=1)
    return str(out)


@pytest.fixture(scope="module")
def resources(shop: Workshop):
    lines = [line for line in _PROSE.read_text().lower().splitlines() if line]
    words = sorted(set(" ".join(lines).split()))
    files = {"ours": [line.translate(_CIPHER) for line in lines], "theirs": lines}
    files["words.tsv"] = [f"{word.translate(_CIPHER)}\t{word}" for word in words]
    for name, content in files.items():
        (shop.folder / name).write_text("".join(f"{line}\n" for line in content))
    return {
        "own segmentation": {},
        "word list": {"adaptation__lexicon": str(shop.folder / "words.tsv")},
        "parallel text": {"adaptation__parallel": [str(shop.folder / "ours"), str(shop.folder / "theirs")]},
    }


@pytest.mark.parametrize("source", ["own segmentation", "word list", "parallel text"])
def test_states_come_closer_and_all_other_rows_stay(source, resources, data, shop: Workshop, few_updates):
    setup = setup_of(shop, data__path=data, **resources[source])
    before = {name: value.clone() for name, value in setup.source.body.state_dict().items()}
    start = starts.starting_point(setup, "de")
    found = start.facts["distillation"]
    assert list(found["texts"]) == [source] and start.facts["kind"] == "distil"
    assert found["unmatched_after"] < 0.9 * found["unmatched_before"]
    combined = starts.starting_point(
        setup_of(shop, adaptation__initialise="combined", data__path=data, **resources[source]), "de"
    )
    ours, theirs = piece_forms(setup.texts["de"].tokenizer), piece_forms(setup.source.tokenizer)
    new = torch.tensor([form is not None for form in ours]) & torch.from_numpy(shared_pieces(theirs, ours) < 0)
    moved = (start.matrix != combined.matrix).any(1)
    assert torch.equal(start.matrix[~new], combined.matrix[~new]) and torch.equal(start.bias, combined.bias)
    assert 0 < moved.sum() == found["rows"] <= new.sum()
    assert all(torch.equal(value, before[name]) for name, value in setup.source.body.state_dict().items())
    again = starts.starting_point(setup, "de")
    assert torch.equal(again.matrix, start.matrix)


def test_what_it_costs_is_in_the_ledger(shop: Workshop, few_updates):
    run = shop.adapted("distilled", adaptation__initialise="distil")
    pack = LanguagePack.load(run / "packs/de")
    found = pack.details["starting_point"]["distillation"]
    setup = build_setup(load_adaptation_recipe(run / "recipe.yaml"))
    ledger = json.loads((run / "compute.json").read_text())
    assert ledger["flops"] == setup.flops("de", UPDATES) + found["flops"] == pack.details["ledger"]["flops"]
    assert ledger["tokens"] == UPDATES * setup.tokens_per_update + found["tokens"] == pack.details["ledger"]["tokens"]
    assert LanguagePack.load(run / "starts/de").details["starting_point"]["distillation"] == found


def test_its_flops_are_those_of_two_passes(shop: Workshop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distillation, "UPDATES", 1)
    learned = []
    learn = distillation._Rows.learn
    monkeypatch.setattr(distillation._Rows, "learn", lambda *given: learned.extend(texts := learn(*given)) or texts)
    setup = setup_of(shop)
    found = starts.starting_point(setup, "de").facts["distillation"]
    shape = BodyShape.from_config(setup.source.body.config)
    assert len(learned) == distillation.TEXTS
    assert found["tokens"] == sum(len(text.ours) for text in learned)
    assert found["flops"] == sum(
        training_flops(shape, len(text.ours), 0, "standard") + body_forward_flops(shape, len(text.theirs))
        for text in learned
    )


def test_micro_batches_change_nothing_but_rounding(shop: Workshop, few_updates):
    one, two = (starts.starting_point(setup_of(shop, training__micro_batch=size), "de").matrix for size in (4, 8))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-3)


def test_nothing_to_match_is_said(shop: Workshop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distillation, "matched_texts", lambda *_: {"own segmentation": []})
    with pytest.raises(UserError, match=r"distil: there is too little.*adaptation.lexicon or adaptation.parallel"):
        starts.starting_point(setup_of(shop), "de")


def test_of_what_was_given_there_is_too_little(resources, data, shop: Workshop, monkeypatch: pytest.MonkeyPatch):
    files = [shop.folder / "few-ours", shop.folder / "few-theirs"]
    for file, whole in zip(files, resources["parallel text"]["adaptation__parallel"], strict=True):
        file.write_text("".join(Path(whole).read_text().splitlines(keepends=True)[:9]))
    few = setup_of(shop, data__path=data, adaptation__parallel=[str(file) for file in files])
    with pytest.raises(
        UserError, match=r"^adaptation\.parallel: .*few-ours: distil can match 9 of its lines, and 10 are"
    ):
        starts.starting_point(few, "de")
    listed = setup_of(shop, data__path=data, **resources["word list"])
    monkeypatch.setattr(distillation, "matched_texts", lambda *_: {"word list": [None] * 4})
    with pytest.raises(
        UserError, match=r"^adaptation\.lexicon: .*words\.tsv: its words are in 4 texts of .*, and 10 are"
    ):
        starts.starting_point(listed, "de")

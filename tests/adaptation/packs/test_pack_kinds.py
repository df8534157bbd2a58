"""Extensions and replacements: packs that hold some rows, beside the source's, which stay bit for bit."""

import copy
import json
import warnings
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from megamini.adaptation.packs.kinds import kind_beside
from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.adaptation.packs.plugging import plugged, unplug
from megamini.data.vocabulary.unigram import with_pieces
from megamini.downstream.task_model import lineage_entries
from megamini.errors import UserError
from megamini.models.lineage import lineage_of
from tests.data.vocabulary.languages import ids, without_bytes
from tests.models.bodies import ENCODERS, UNTIED, VOCAB, WIDTH, small_config, small_model

WORDS = [f"{a}{b}" for a in "abcdefghijkv" for b in "lmnopqrstu"]
OLD = without_bytes({"▁": -3.0} | {f"▁{word}": -4.0 - n / 100 for n, word in enumerate(WORDS[: VOCAB - 6])})
GREEK = [("▁αβ", -4.0), ("α", -5.0), ("β", -5.0)]
RUSSIAN = [("▁да", -4.0), ("д", -5.0), ("а", -5.0), ("α", -4.5)]
ENGLISH, MIXED = " ".join(WORDS[:15]), "al αβ am αα"


def extension(model, language, added, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rows, bias = torch.randn(len(added), WIDTH, generator=generator), torch.randn(len(added), generator=generator)
    return LanguagePack(language, rows, bias, with_pieces(OLD, added), lineage_of(model, OLD), {}, kind="extension")


def replacement(model, numbers=(20, 40, 41)):
    new = {number: (f"▁ня{number}", -4.0) for number in numbers}
    rows, own = torch.randn(len(numbers), WIDTH), torch.tensor(numbers)
    tokenizer = with_pieces(OLD, [], new)
    return LanguagePack("ru", rows, rows[:, 0], tokenizer, lineage_of(model, OLD), {}, kind="replacement", ids=own)


def classifier(family="roberta"):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(small_config(family, num_labels=3)).eval()


def inputs(tokenizer, *texts):
    return tokenizer(list(texts), return_tensors="pt", padding=True)


def test_the_kind_is_seen_by_the_tokenizers():
    assert kind_beside(OLD, OLD) == ("swapped", None)
    kind, own = kind_beside(with_pieces(OLD, GREEK), OLD)
    assert kind == "extension" and own.tolist() == [120, 121, 122]
    kind, own = kind_beside(with_pieces(OLD, [], {7: ("x", -1.0), 9: ("y", -1.0)}), OLD)
    assert kind == "replacement" and own.tolist() == [7, 9]
    others = without_bytes({"▁": -3.1} | {f"▁{word}": -4.001 - n / 100 for n, word in enumerate(WORDS[: VOCAB - 6])})
    assert len(others) == len(OLD) and kind_beside(others, OLD) == ("swapped", None)


@pytest.mark.parametrize("family", ENCODERS)
def test_results_in_the_old_language_are_the_same_to_the_bit(family):
    model = classifier(family)
    before = model(**inputs(OLD, ENGLISH, "al am")).logits
    tokenizer = plug(model, OLD, extension(model, "el", GREEK))
    assert len(tokenizer) == VOCAB + 3 == len(model.get_input_embeddings().weight)
    assert torch.equal(model(**inputs(tokenizer, ENGLISH, "al am")).logits, before)
    assert not torch.equal(model(**inputs(tokenizer, MIXED, "al")).logits, model(**inputs(OLD, MIXED, "al")).logits)


@pytest.mark.parametrize("family", ENCODERS)
def test_old_rows_stay_and_new_ones_follow(family):
    model = small_model(family)
    matrix, bias = model.get_input_embeddings().weight.clone(), model.get_output_embeddings().bias.clone()
    pack = extension(model, "el", GREEK)
    plug(model, OLD, pack)
    assert torch.equal(model.get_input_embeddings().weight, torch.cat([matrix, pack.token_embeddings]))
    assert torch.equal(model.get_output_embeddings().bias, torch.cat([bias, pack.output_bias]))
    assert model.config.vocab_size == VOCAB + 3
    unplug(model)
    assert torch.equal(model.get_input_embeddings().weight, matrix)


def test_extensions_plug_beside_one_another_in_any_order():
    """A piece that both have is there once, with the row of the first; old text stays as it is."""
    model = classifier()
    before = model(**inputs(OLD, ENGLISH)).logits
    greek, russian = extension(model, "el", GREEK), extension(model, "ru", RUSSIAN, seed=2)
    tokenizer = plug(model, plug(model, OLD, greek), russian)
    assert len(tokenizer) == VOCAB + 6
    rows = torch.cat([greek.token_embeddings, russian.token_embeddings[:3]])
    assert torch.equal(model.get_input_embeddings().weight[VOCAB:], rows)
    assert torch.equal(model(**inputs(tokenizer, ENGLISH)).logits, before)
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "al αβ да")) == ["▁al", "▁αβ", "▁да"]
    assert unplug(model) is OLD
    other = plug(model, plug(model, OLD, russian), greek)
    assert sorted(other.get_vocab()) == sorted(tokenizer.get_vocab())


def test_which_row_of_a_shared_piece_stays_is_said():
    greek, russian = (("el", GREEK, 1), ("ru", RUSSIAN, 2))
    for first, second in ((greek, russian), (russian, greek)):
        model = classifier()
        packs = [extension(model, language, added, seed=seed) for language, added, seed in (first, second)]
        tokenizer = plug(model, OLD, packs[0])
        before = model(**inputs(tokenizer, "α")).logits
        with pytest.warns(UserWarning, match=f"pack '{second[0]}': 1 of its [34] pieces .* rows that are there stay"):
            both = plug(model, tokenizer, packs[1])
        assert torch.equal(model(**inputs(both, "α")).logits, before)


def test_the_same_rows_twice_are_no_news_and_other_rows_of_all_pieces_are_refused():
    model = classifier()
    pack, later = extension(model, "el", GREEK), extension(model, "el", GREEK, seed=3)
    tokenizer = plug(model, OLD, pack)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = plug(model, tokenizer, pack)
    matrix = model.get_input_embeddings().weight.clone()
    with pytest.raises(UserError, match="pack 'el': all its pieces are in the model already, with other rows"):
        plug(model, tokenizer, later)
    assert torch.equal(model.get_input_embeddings().weight, matrix)
    plug(model, unplug(model), later)
    assert torch.equal(model.get_input_embeddings().weight[VOCAB:], later.token_embeddings)


@pytest.mark.parametrize("kind", ["extension", "replacement"])
def test_a_part_with_an_output_matrix_does_not_go_into_a_tied_model(kind):
    model = small_model("roberta")
    pack = extension(model, "el", GREEK) if kind == "extension" else replacement(model)
    with pytest.raises(UserError, match="holds an output matrix, and this model's is its token matrix"):
        plug(model, OLD, replace(pack, output_embeddings=pack.token_embeddings))


def test_a_task_model_still_says_what_its_task_is():
    """Its configuration says `kind: classification`; an exported one is evaluated by that."""
    model = classifier()
    model.config.megamini = {"task": "xnli", "kind": "classification"}
    plug(model, OLD, extension(model, "el", GREEK))
    said = model.config.megamini
    assert said["kind"] == "classification" and said["pack_kind"] == "extension" and said["own_pieces"] == VOCAB
    assert lineage_entries(model, OLD) == {
        "lineage": said["lineage"], "plugged": "el", "pack_kind": "extension", "own_pieces": VOCAB,
    }  # fmt: skip
    unplug(model)
    assert model.config.megamini == {"task": "xnli", "kind": "classification"}


def test_an_extension_takes_the_place_of_a_swapped_pack_and_the_other_way():
    model = small_model("roberta")
    own, pack = model.get_input_embeddings().weight.clone(), extension(model, "el", GREEK)
    swapped = LanguagePack("de", torch.randn(VOCAB, WIDTH), torch.randn(VOCAB), OLD, lineage_of(model, OLD), {})
    german = plug(model, OLD, swapped)
    tokenizer = plug(model, german, pack)
    assert torch.equal(model.get_input_embeddings().weight, torch.cat([own, pack.token_embeddings]))
    assert model.config.megamini["pack_kind"] == "extension"
    plug(model, tokenizer, swapped)
    assert torch.equal(model.get_input_embeddings().weight, swapped.token_embeddings)
    assert "pack_kind" not in model.config.megamini
    with plugged(model, german, pack) as inner:
        assert len(inner) == VOCAB + 3
    assert torch.equal(model.get_input_embeddings().weight, swapped.token_embeddings)


def test_a_replacement_keeps_all_shapes_and_all_other_rows():
    model = small_model("bert")
    matrix, pack = model.get_input_embeddings().weight.clone(), replacement(model)
    tokenizer = plug(model, OLD, pack)
    now = model.get_input_embeddings().weight
    assert now.shape == matrix.shape and len(tokenizer) == VOCAB
    changed = (now != matrix).any(1).nonzero().flatten().tolist()
    assert changed == [20, 40, 41] and torch.equal(now[changed], pack.token_embeddings)


@pytest.mark.parametrize("kind", ["extension", "replacement"])
def test_saved_and_read_again(tmp_path, kind):
    model = small_model("roberta")
    pack = extension(model, "el", GREEK) if kind == "extension" else replacement(model)
    pack.save(tmp_path / "pack")
    again = LanguagePack.load(tmp_path / "pack")
    assert again.kind == kind and torch.equal(again.token_embeddings, pack.token_embeddings)
    assert json.loads((tmp_path / "pack/pack.json").read_text())["format"] == 2
    assert f"| kind | {kind} |" in (tmp_path / "pack/README.md").read_text()
    one, other = copy.deepcopy(model), model
    assert len(plug(one, OLD, pack)) == len(plug(other, OLD, again))
    assert torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_an_exported_extended_model_takes_further_extensions_and_no_other_part(tmp_path):
    model = small_model("roberta")
    packs = extension(model, "el", GREEK), extension(model, "ru", RUSSIAN, seed=2), replacement(model)
    live = copy.deepcopy(model)
    both = plug(live, plug(live, OLD, packs[0]), packs[1])
    tokenizer = plug(model, OLD, packs[0])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, own = AutoModelForMaskedLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    further = plug(loaded, own, packs[1])
    assert further.get_vocab() == both.get_vocab()
    assert torch.equal(loaded(**inputs(further, MIXED)).logits, live.eval()(**inputs(both, MIXED)).logits)
    fresh = AutoModelForMaskedLM.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="pack 'ru': goes beside the model's own vocabulary, which 'el'"):
        plug(fresh, own, packs[2])


def untied_pack(model, kind):
    """With rows for both matrices of a model that does not tie them."""
    pack = extension(model, "el", GREEK) if kind == "extension" else replacement(model)
    output = torch.randn(pack.token_embeddings.shape, generator=torch.Generator().manual_seed(5))
    return replace(pack, output_embeddings=output)


@pytest.mark.parametrize("kind", ["extension", "replacement"])
@pytest.mark.parametrize("family", UNTIED)
def test_rows_go_into_both_matrices_where_these_are_not_tied(family, kind, tmp_path):
    model = small_model(family)
    before = [one.weight.clone() for one in (model.get_input_embeddings(), model.get_output_embeddings())]
    text = torch.tensor([[0, 6, 7, 8]])
    logits = model(text).logits
    pack = untied_pack(model, kind)
    pack.save(tmp_path / "pack")
    plug(model, OLD, LanguagePack.load(tmp_path / "pack"))
    now = [one.weight for one in (model.get_input_embeddings(), model.get_output_embeddings())]
    own = torch.arange(VOCAB, VOCAB + 3) if kind == "extension" else pack.ids
    old = [number for number in range(VOCAB) if number not in own.tolist()]
    for matrix, was, rows in zip(now, before, (pack.token_embeddings, pack.output_embeddings), strict=True):
        assert torch.equal(matrix[own], rows)
        assert torch.equal(matrix[old], was[old])
    assert torch.equal(model(text).logits[..., old], logits[..., old])
    unplug(model)
    assert torch.equal(model(text).logits, logits)
    with pytest.raises(UserError, match="holds no output matrix, and this model's is not its token matrix"):
        plug(model, OLD, replace(pack, output_embeddings=None))
    assert torch.equal(model.get_output_embeddings().weight, before[1])


def test_extensions_of_an_untied_model_plug_beside_one_another():
    model = small_model("llama")
    greek, russian = untied_pack(model, "extension"), extension(model, "ru", RUSSIAN, seed=2)
    russian = replace(russian, output_embeddings=russian.token_embeddings + 1)
    tokenizer = plug(model, plug(model, OLD, greek), russian)
    assert len(tokenizer) == VOCAB + 6 == model.config.vocab_size
    rows = torch.cat([greek.output_embeddings, russian.output_embeddings[:3]])
    assert torch.equal(model.get_output_embeddings().weight[VOCAB:], rows)
    # A pack of another kind takes their place, and they its own.
    instead = untied_pack(model, "replacement")
    plug(model, tokenizer, instead)
    assert len(model.get_output_embeddings().weight) == VOCAB
    assert torch.equal(model.get_output_embeddings().weight[instead.ids], instead.output_embeddings)


def test_what_does_not_fit_is_one_line(tmp_path):
    model = small_model("roberta")
    pack = extension(model, "el", GREEK)
    for count in (2, 4):  # rows for three pieces
        torn = LanguagePack(
            "el", torch.zeros(count, WIDTH), torch.zeros(count), pack.tokenizer, pack.lineage, {}, kind="extension"
        )
        with pytest.raises(UserError, match="pack 'el': its tokenizer is no extension of the model's"):
            plug(model, OLD, torn)
    assert not hasattr(model.config, "megamini") and len(model.get_input_embeddings().weight) == VOCAB
    bad = replacement(model, (40, 20, 41))
    bad.save(tmp_path / "order")
    with pytest.raises(UserError, match="120 pieces for 3 rows; fetch the pack again"):
        LanguagePack.load(tmp_path / "order")


def test_a_replacement_of_another_vocabulary_is_refused_and_nothing_moves():
    """Rows that it does not bring would be read by other pieces, without a word."""
    model = small_model("roberta")
    matrix, pack = model.get_input_embeddings().weight.clone(), replacement(model)
    longer = with_pieces(OLD, GREEK, {20: ("x", -4.0)})
    others = with_pieces(OLD, [], {number: (f"o{number}", -4.0) for number in (20, 40, 41, 42)})
    for change in ({"tokenizer": longer}, {"tokenizer": others}, {"ids": torch.tensor([OLD.pad_token_id, 40, 41])}):
        with pytest.raises(UserError, match="pack 'ru': its tokenizer is no replacement of pieces of the model's"):
            plug(model, OLD, replace(pack, **change))
    assert torch.equal(model.get_input_embeddings().weight, matrix) and not hasattr(model.config, "megamini")


@pytest.mark.parametrize("said", ["abc", None, [1], -3, 0, True, 10_000])
def test_a_foreign_number_of_own_pieces_is_one_line(said):
    model = small_model("roberta")
    tokenizer = plug(model, OLD, extension(model, "el", GREEK))
    model.config.megamini["own_pieces"] = said
    with pytest.raises(UserError, match=r"megamini\.own_pieces is .*; export the model again"):
        plug(model, tokenizer, extension(model, "ru", RUSSIAN, seed=2))

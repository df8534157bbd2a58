"""Swapping is exact: a plugged model equals one exported with the pack, and the source comes back bit for bit."""

import json

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.adaptation.packs.plugging import plugged
from megamini.data.batches import validation_batches
from megamini.data.blocks import Blocks
from megamini.data.preparation.prepare import Settings, prepare
from megamini.data.tokenizer import load_tokenizer, piece_bytes
from megamini.downstream.evaluation import bits_per_byte as module
from megamini.downstream.evaluation.bits_per_byte import bits_per_byte_of
from megamini.downstream.evaluation.retrieval import page_vectors, retrieval_accuracy
from megamini.downstream.evaluation.zero_shot import Packs
from megamini.downstream.metrics.measurement import ratio
from megamini.downstream.recipe import BitsPerByteSection
from megamini.downstream.results import Learned
from megamini.errors import UserError
from tests.downstream.workplace import PROSE, make_pack, make_primary


def make_data(tokenizer, folder):
    settings = Settings("en", block_length=32, validation_share=0.2, tokenizer=str(tokenizer))
    prepare([str(PROSE)], folder, settings, processes=1)


@pytest.mark.parametrize("auto_class", [AutoModelForMaskedLM, AutoModelForSequenceClassification])
def test_there_and_back_leaves_no_trace(primary, pack, auto_class):
    model, tokenizer = auto_class.from_pretrained(primary).eval(), load_tokenizer(primary)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    ids = torch.randint(5, 400, (2, 20), generator=torch.Generator().manual_seed(0))
    logits = model(ids).logits
    learned = LanguagePack.load(pack)
    with plugged(model, tokenizer, learned) as own:
        assert own.get_vocab() == learned.tokenizer.get_vocab()
        assert torch.equal(model.get_input_embeddings().weight, learned.token_embeddings)
        assert not torch.equal(model(ids % 300).logits, logits)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert model.config.to_dict() == config
    assert torch.equal(model(ids).logits, logits)
    if auto_class is AutoModelForMaskedLM:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_an_error_on_the_way_leaves_no_trace_either(primary, pack):
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(primary), load_tokenizer(primary)
    before = model.get_input_embeddings().weight.clone()
    with pytest.raises(KeyError), plugged(model, tokenizer, LanguagePack.load(pack)):
        raise KeyError
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_plugged_equals_the_exported_checkpoint(primary, pack, tmp_path):
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(primary), load_tokenizer(primary)
    plug(model, tokenizer, LanguagePack.load(pack)).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    exported = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(5, 300, (2, 20), generator=torch.Generator().manual_seed(0))
    fresh = AutoModelForMaskedLM.from_pretrained(primary).eval()
    with plugged(fresh, tokenizer, LanguagePack.load(pack)):
        assert torch.equal(fresh(ids).logits, exported(ids).logits)


def test_packs_and_who_speaks_them(primary, pack, tmp_path):
    packs = Packs(
        {"mini-de": str(pack), "standard-de": str(pack), "es": str(make_pack(primary, tmp_path / "es", "es"))}
    )
    assert packs.of_languages((), "en", "languages") == [
        ("en", None),
        ("de", "mini-de"),
        ("de", "standard-de"),
        ("es", "es"),
    ]
    assert packs.of_languages(("es",), "en", "languages") == [("es", "es")]
    with pytest.raises(UserError, match=r"tasks.x.languages: no pack in `packs` is of language 'fr'; there are de, es"):
        packs.of_languages(("fr",), "en", "tasks.x.languages")


def test_a_pattern_is_a_series_of_packs_learned_one_after_the_other(primary, pack, tmp_path):
    for updates in (0, 20):
        folder = make_pack(primary, tmp_path / "packs" / f"de-step-{updates:08d}")
        described = json.loads((folder / "pack.json").read_text())
        described["ledger"] = {"updates": updates, "tokens": 10 * updates, "flops": 1e3 * updates, "seconds": 0.5}
        (folder / "pack.json").write_text(json.dumps(described))
    packs = Packs({"mini": str(tmp_path / "packs" / "*-step-*"), "de": str(pack)})
    last = "mini/de-step-00000020"
    assert packs.of_languages((), "en", "x")[1:] == [("de", "mini/de-step-00000000"), ("de", last), ("de", "de")]
    assert packs.learned[last] == Learned("mini", "mini", 20, 200, 2e4, 0.5)
    with pytest.raises(UserError, match=r"packs.mini: gone/\*: no language pack there"):
        Packs({"mini": "gone/*"})
    make_pack(primary, tmp_path / "other" / "de-step-00000020")
    with pytest.raises(UserError, match=r"several folders named de-step-00000020"):
        Packs({"mini": f"{tmp_path}/*/*-step-*"})


def test_bits_per_byte_is_that_of_naive_logits(primary, tmp_path):
    """Every piece masked by the same draw; log-probabilities from the library's own logits."""
    make_data(primary, tmp_path / "data")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(primary).eval(), load_tokenizer(primary)
    rules = []

    def spy(blocks, rule, *arguments, **options):
        rules.append(rule)
        return validation_batches(blocks, rule, *arguments, **options)

    section = BitsPerByteSection(data={}, blocks=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "validation_batches", spy)
        parts, pieces = bits_per_byte_of(model, tokenizer, str(tmp_path / "data"), section, 3)
    nats = sizes = count = 0.0
    for batch in validation_batches(Blocks(tmp_path / "data", "validation"), rules[0], 7, 7, 0, 1):
        logits = model(batch.input_ids, attention_mask=batch.attention_mask).logits.flatten(0, 1)[batch.positions]
        losses = functional.cross_entropy(logits, batch.labels, reduction="none")
        nats += (losses * batch.weights).sum().item()
        sizes += (torch.from_numpy(piece_bytes(tokenizer))[batch.labels] * batch.weights).sum().item()
        count += batch.weights.sum().item()
    assert pieces == count > 0
    assert len(parts) == 7
    assert ratio(parts) == pytest.approx(nats / 0.6931471805599453 / sizes, rel=1e-5)


def test_bits_per_byte_needs_the_packs_tokenizer(primary, pack, tmp_path):
    make_data(primary, tmp_path / "data")
    model = AutoModelForMaskedLM.from_pretrained(primary)
    with pytest.raises(UserError, match="another tokenizer"):
        bits_per_byte_of(model, load_tokenizer(pack), str(tmp_path / "data"), BitsPerByteSection(data={}), 4)


def test_retrieval_by_hand():
    source = torch.eye(3)
    assert retrieval_accuracy(source, source).values == {"accuracy": 1, "to_target": 1, "to_source": 1}
    # Page 1 of the target looks like page 0: from the source only page 0 and 2 are found, backwards as well.
    target = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0.4], [0, 0, 1.0]])
    found = retrieval_accuracy(source, functional.normalize(target, dim=1))
    values = found.values
    assert values["to_target"] == 1
    assert values["to_source"] == pytest.approx(2 / 3)
    assert values["accuracy"] == pytest.approx(5 / 6)
    assert found.parts["accuracy"] == [(2, 2), (1, 2), (2, 2)]


def test_page_vectors_are_means_over_the_pages_own_tokens(primary):
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(primary).eval(), load_tokenizer(primary)
    texts = ["Bread", "The river carries cold water past the old mill"]
    vectors = page_vectors(model, tokenizer, texts, layer=1, max_length=64, batch_size=2)
    for text, vector in zip(texts, vectors, strict=True):
        encoded = tokenizer(text, return_tensors="pt")
        states = model.base_model(**encoded, output_hidden_states=True).hidden_states[1][0, 1:-1]
        torch.testing.assert_close(vector, functional.normalize(states.mean(0), dim=0), atol=1e-5, rtol=1e-4)


def test_another_models_pack_is_refused(pack, tmp_path):
    other = make_primary(tmp_path / "other")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(other), load_tokenizer(other)
    with torch.no_grad():
        model.get_input_embeddings().weight[7, 3] += 5
    with pytest.raises(UserError, match="other token embeddings"), plugged(model, tokenizer, LanguagePack.load(pack)):
        pass

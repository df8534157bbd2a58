"""Language packs: saved and loaded whole, plugged where they fit, refused where they do not."""

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.errors import UserError
from megamini.models.lineage import lineage_of
from tests.models.bodies import ENCODERS, VOCAB, WIDTH, small_model, small_tokenizer

TOKENIZER = small_tokenizer()


def make_pack(model, rows=VOCAB, seed=1):
    generator = torch.Generator().manual_seed(seed)
    matrix, bias = torch.randn(rows, WIDTH, generator=generator), torch.randn(rows, generator=generator)
    return LanguagePack("de", matrix, bias, TOKENIZER, lineage_of(model, TOKENIZER), {"method": "mini"})


@pytest.mark.parametrize("family", ENCODERS)
def test_a_plugged_model_speaks_with_the_packs_matrix_and_nothing_else_changes(family):
    model = small_model(family)
    pack = make_pack(model, rows=VOCAB + 30)
    body_before = {name: p.clone() for name, p in model.base_model.named_parameters() if p.shape[0] != VOCAB}
    tokenizer = plug(model, TOKENIZER, pack)
    assert tokenizer.get_vocab() == pack.tokenizer.get_vocab()
    assert tokenizer("w1 w2 w3")["input_ids"] == pack.tokenizer("w1 w2 w3")["input_ids"]
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
    assert output.weight is embeddings.weight
    assert torch.equal(embeddings.weight, pack.token_embeddings)
    assert torch.equal(output.bias, pack.output_bias)
    assert model.config.vocab_size == VOCAB + 30
    for name, before in body_before.items():
        assert torch.equal(model.base_model.get_parameter(name), before), name
    ids = torch.randint(5, VOCAB + 30, (2, 12))
    rows = []
    handle = output.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0]))
    logits = model(ids).logits
    handle.remove()
    torch.testing.assert_close(logits, rows[0] @ pack.token_embeddings.T + pack.output_bias)


def test_saved_and_loaded_packs_are_equal(tmp_path):
    pack = make_pack(small_model("roberta"))
    pack.save(tmp_path / "de")
    pack.save(tmp_path / "de")  # replaces
    again = LanguagePack.load(tmp_path / "de")
    assert torch.equal(again.token_embeddings, pack.token_embeddings)
    assert torch.equal(again.output_bias, pack.output_bias)
    assert (again.language, again.lineage, again.details) == ("de", pack.lineage, {"method": "mini"})
    assert again.tokenizer.get_vocab() == pack.tokenizer.get_vocab()
    assert [path.name for path in tmp_path.iterdir()] == ["de"]


def test_a_task_model_with_the_sources_embeddings_takes_the_pack(tmp_path):
    primary = small_model("xlm-roberta")
    pack = make_pack(primary)
    primary.save_pretrained(tmp_path)
    task = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    with torch.no_grad():  # as fine-tuned with frozen token embeddings
        for name, parameter in task.named_parameters():
            if "word_embeddings" not in name:
                parameter.add_(0.01)
    plug(task, TOKENIZER, pack)
    assert torch.equal(task.get_input_embeddings().weight, pack.token_embeddings)


def test_a_plugged_model_takes_another_pack_of_its_lineage_and_its_own_back():
    model = small_model("bert")
    own = LanguagePack(
        "en",
        model.get_input_embeddings().weight.detach().clone(),
        model.get_output_embeddings().bias.detach().clone(),
        TOKENIZER,
        lineage_of(model, TOKENIZER),
    )
    ids = torch.randint(5, VOCAB, (2, 12))
    before = model(ids).logits
    for pack in (make_pack(model, rows=VOCAB + 9), own):
        plug(model, TOKENIZER, pack)
    assert torch.equal(model(ids).logits, before)


def test_lineage_does_not_depend_on_the_precision_of_the_model():
    model = small_model("roberta")
    pack = make_pack(model)
    plug(model.to(torch.bfloat16), TOKENIZER, pack)
    assert torch.equal(model.get_input_embeddings().weight, pack.token_embeddings.to(torch.bfloat16))


def test_another_models_pack_is_refused():
    pack = make_pack(small_model("roberta"))
    trained_since = small_model("roberta")
    with torch.no_grad():
        trained_since.get_input_embeddings().weight[7, 3] += 0.5
    with pytest.raises(UserError, match="other token embeddings"):
        plug(trained_since, TOKENIZER, pack)


def test_another_tokenizers_pack_is_refused():
    model = small_model("roberta")
    other = copy.deepcopy(TOKENIZER)
    other.add_tokens(["new"])
    with pytest.raises(UserError, match="another tokenizer"):
        plug(model, other, make_pack(model))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda d: (d / "pack.json").unlink(), "language pack"),
        (lambda d: (d / "pack.json").write_text('{"format": 1'), "not the description"),
        (lambda d: (d / "pack.json").write_text('{"format": 99}'), "format 99"),
        (lambda d: (d / "embeddings.safetensors").unlink(), "missing"),
        (lambda d: _cut(d / "embeddings.safetensors"), "checksum"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer"),
    ],
)
def test_a_damaged_pack_is_named_in_one_line(tmp_path, damage, words):
    make_pack(small_model("roberta")).save(tmp_path / "de")
    damage(tmp_path / "de")
    with pytest.raises(UserError, match=words) as caught:
        LanguagePack.load(tmp_path / "de")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "de") in str(caught.value)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-10])

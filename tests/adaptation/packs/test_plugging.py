"""Out again: `unplug` and `plugged` give a model back what it spoke, bit for bit."""

import copy

import pytest
import torch

from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.adaptation.packs.plugging import plugged, unplug
from megamini.errors import UserError
from megamini.models.lineage import lineage_of
from tests.models.bodies import ENCODERS, VOCAB, WIDTH, small_model, small_tokenizer

TOKENIZER = small_tokenizer()
IDS = torch.randint(5, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))


def make_pack(model, rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    matrix, bias = torch.randn(rows, WIDTH, generator=generator), torch.randn(rows, generator=generator)
    return LanguagePack("de", matrix, bias, TOKENIZER, lineage_of(model, TOKENIZER), {})


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}, model.config.to_dict()


def assert_as_before(model, before):
    tensors, config = before
    assert model.state_dict().keys() == tensors.keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in tensors.items())
    assert model.config.to_dict() == config
    output = model.get_output_embeddings()
    assert output.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("rows", [VOCAB, VOCAB + 30])
def test_unplugged_is_as_before(family, rows):
    model = small_model(family).eval()
    before, logits = state_of(model), model(IDS).logits
    plug(model, TOKENIZER, make_pack(model, rows))
    assert unplug(model) is TOKENIZER
    assert_as_before(model, before)
    assert torch.equal(model(IDS).logits, logits)


def test_after_several_packs_it_is_still_the_models_own():
    model = small_model("roberta")
    before, packs = state_of(model), [make_pack(model, VOCAB, seed) for seed in (1, 2)]
    for pack in packs:
        plug(model, TOKENIZER, pack)
    unplug(model)
    assert_as_before(model, before)


def test_contexts_may_be_nested():
    model = small_model("bert")
    before, (first, second) = state_of(model), (make_pack(model, VOCAB + seed, seed) for seed in (1, 2))
    with plugged(model, TOKENIZER, first):
        inside = state_of(model)
        with plugged(model, TOKENIZER, second):
            assert torch.equal(model.get_input_embeddings().weight, second.token_embeddings)
        assert_as_before(model, inside)
    assert_as_before(model, before)


def test_a_pack_that_does_not_fit_leaves_no_trace():
    model, stranger = small_model("roberta"), small_model("roberta")
    stranger.get_input_embeddings().weight.data[7, 3] += 0.5
    before = state_of(model)
    with (
        pytest.raises(UserError, match="other token embeddings"),
        plugged(model, TOKENIZER, make_pack(stranger, VOCAB)),
    ):
        pass
    assert_as_before(model, before)
    with pytest.raises(UserError, match="no pack was plugged"):
        unplug(model)


def test_a_frozen_model_stays_frozen():
    model = small_model("roberta").requires_grad_(False)
    plug(model, TOKENIZER, make_pack(model, VOCAB + 3))
    unplug(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_copy_of_a_plugged_model_can_be_unplugged():
    model = small_model("roberta")
    before = state_of(model)
    plug(model, TOKENIZER, make_pack(model, VOCAB + 3))
    twin = copy.deepcopy(model)
    unplug(twin)
    assert_as_before(twin, before)


def test_a_model_loaded_with_a_pack_in_it_cannot(tmp_path):
    model = small_model("roberta")
    plug(model, TOKENIZER, make_pack(model, VOCAB))
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="load the model without a pack"):
        unplug(type(model).from_pretrained(tmp_path))

"""What the families say of themselves, against the library's own models."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from megamini.errors import UserError
from megamini.models.families import FAMILIES, embed, family_of
from megamini.models.primary_model import PrimaryModel
from tests.models import bodies


def truncated(model, primary, layer):
    """The library's model of the lowest layers with the exit's norm and transform: what the mini-model must be."""
    config, family = copy.deepcopy(model.config), primary.family
    config.num_hidden_layers = layer
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layer]
    small = bodies.auto_class(config.model_type).from_config(config).eval()
    assert len(family.layer_list(small)) == layer
    state = model.state_dict()
    small.load_state_dict({name: state[name] for name in small.state_dict()})
    head = primary.exits[str(layer)]
    for module, own in zip(family.transform_modules(small), head.transform, strict=True):
        module.load_state_dict(own.state_dict())
    if family.final_norm:
        small.get_submodule(family.final_norm).load_state_dict(head.norm.state_dict())
    return small


def randomised_primary(model, exits):
    """Exits whose norms and transforms are their own and not where they start."""
    torch.manual_seed(5)
    primary = PrimaryModel(model, exits).eval()
    with torch.no_grad():
        for parameter in primary.exits.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return primary


def project(model, rows):
    output = model.get_output_embeddings()
    return nn.functional.linear(rows, output.weight, output.bias)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_heads_equal_the_library_whole_and_truncated(family, padded):
    model = bodies.small_model(family)
    primary = randomised_primary(model, exits=(1, 3))
    ids, positions, _, mask = bodies.small_batch(padded=padded)
    with torch.no_grad():
        logits = project(model, primary.head_rows(ids, positions, mask)).chunk(3)
        references = [truncated(model, primary, 1), truncated(model, primary, 3), model]
        for name, found, reference in zip(primary.head_names, logits, references, strict=True):
            expected = reference(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)[positions]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    assert (logits[0] - logits[1]).abs().max() > 0.1 < (logits[1] - logits[2]).abs().max()


def test_every_family_of_ours_is_tested():
    assert set(FAMILIES) == set(bodies.FAMILIES)


@pytest.mark.parametrize("family", bodies.ENCODERS)
def test_a_fresh_exit_starts_by_the_familys_own_rule(family):
    model = bodies.small_model(family, hidden_size=128)  # whose own head is not fresh
    primary = PrimaryModel(model, exits=(2,))
    # ModernBERT's head: 0.02 / sqrt(2 x layers), cut at 2 standard deviations, which leaves 0.8796 of it.
    expected = 0.02 / 8**0.5 * 0.8796 if family == "modernbert" else 0.02
    for module in primary.exits.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
            assert abs(module.weight.mean().item()) < 5 * expected / 128
            assert module.bias is None or (module.bias == 0).all()
            if family == "modernbert":
                assert module.weight.abs().max() <= 2 * 0.02 / 8**0.5
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all() and (module.bias is None or (module.bias == 0).all())
    kinds = [type(module) for module in primary.exits.modules()]
    assert nn.Linear in kinds
    assert kinds.count(nn.LayerNorm) == (2 if FAMILIES[family].final_norm else 1)


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_a_decoders_fresh_exit_is_a_norm_that_changes_no_scale(family):
    primary = PrimaryModel(bodies.small_model(family), exits=(2,))
    (name, weight), *more = primary.exits.named_parameters()
    assert name == "2.norm.weight" and weight.shape == (bodies.WIDTH,)
    assert (weight == (0 if family == "gemma" else 1)).all()  # Gemma's norm adds 1
    assert [n for n, _ in more] == (["2.norm.bias"] if family == "gpt_neox" else [])
    assert not any(bias.any() for _, bias in more)


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_a_decoder_predicts_from_what_came_before(family):
    """No head may read the token that it is to predict."""
    primary = randomised_primary(bodies.small_model(family), exits=(1, 3))
    ids, *_ = bodies.small_batch(blocks=1)
    other = ids.clone()
    other[0, 10:] = 7
    everywhere = torch.arange(bodies.LENGTH)
    with torch.no_grad():
        one, two = (primary.head_rows(x, everywhere).view(3, bodies.LENGTH, -1) for x in (ids, other))
    torch.testing.assert_close(one[:, :10], two[:, :10])
    assert ((one[:, 10:] - two[:, 10:]).abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_embedded_rows_are_what_the_decoder_embeds(family):
    model = bodies.small_model(family)
    ids, *_ = bodies.small_batch()
    matrix = model.get_input_embeddings().weight
    assert torch.equal(embed(model, ids, matrix), model.get_input_embeddings()(ids))


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_dropout_keys_are_keys_of_the_configuration(family):
    changed = bodies.small_config(family, **dict.fromkeys(FAMILIES[family].dropout_keys, 0.37))
    model = bodies.auto_class(family).from_config(changed)
    dropouts = {m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    if family in bodies.DECODERS:
        layers = FAMILIES[family].layer_list(model)
        assert {m.attention_dropout for m in layers.modules() if hasattr(m, "attention_dropout")} == {0.37}
        assert dropouts == ({0.37} if family == "gpt_neox" else set())
    else:
        assert dropouts == {0.37}


def test_another_family_is_refused():
    with pytest.raises(UserError, match="family 'distilbert' is not supported; known are roberta, xlm-roberta"):
        family_of(AutoConfig.for_model("distilbert"))

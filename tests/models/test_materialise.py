"""A model that is built part by part: the library's own initial weights, whoever takes the parts away."""

import pytest
import torch
from torch import nn

from megamini.models.build import build_primary
from megamini.models.primary_model import PrimaryModel
from tests.models import bodies


def build(family: str, place=None) -> PrimaryModel:
    recipe = bodies.small_recipe((1, 3), family=family, config=bodies.SIZES | bodies.EXTRA.get(family, {}))
    return build_primary(recipe, bodies.small_tokenizer(), bodies.LENGTH, place)


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_weights_are_drawn_as_the_library_draws_them(family):
    primary = build(family)
    reference = PrimaryModel(bodies.auto_class(family).from_config(primary.model.config), (1, 3))
    expected = dict(reference.named_parameters())
    assert expected.keys() == dict(primary.named_parameters()).keys()
    for name, parameter in primary.named_parameters():
        drawn, theirs = (one.detach().double() for one in (parameter, expected[name]))
        assert not parameter.is_meta and drawn.shape == theirs.shape
        # Equal where the library writes a constant; else the deviations of two draws of n numbers, five sigma apart.
        bound = 5 * theirs.std().item() / theirs.numel() ** 0.5
        assert abs(drawn.std().item() - theirs.std().item()) <= bound, name
        assert abs(drawn.mean().item() - theirs.mean().item()) <= 2 * bound, name
    for (name, buffer), (_, theirs) in zip(primary.named_buffers(), reference.named_buffers(), strict=True):
        assert torch.equal(buffer, theirs), name
    pad = primary.model.config.pad_token_id
    assert torch.equal(primary.token_embeddings[pad] == 0, reference.token_embeddings[pad] == 0)


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_layers_start_as_the_identity_where_asked_for(family):
    config = bodies.SIZES | bodies.EXTRA.get(family, {})
    recipe = bodies.small_recipe((1, 3), family=family, config=config, zero_init_outputs=True)
    primary = build_primary(recipe, bodies.small_tokenizer(), bodies.LENGTH)
    drawn, zeros = dict(build(family).named_parameters()), []
    for name, parameter in primary.named_parameters():
        if not torch.equal(parameter, drawn[name]):
            zeros.append(name)
            assert not parameter.any() and parameter.ndim == 2, name
    layers = primary.family.layer_list(primary.model)
    assert len(zeros) == 2 * len(layers), "attention's and the feed-forward network's, of every layer"
    if primary.family.final_norm:  # pre-norm: what comes in goes out
        with torch.no_grad():
            states = primary.model.base_model(torch.arange(7, 15)[None], output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[1], states[0])


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_parts_can_be_taken_away_and_are_the_same(family):
    """As ZeRO-3 does: what has had its turn holds no numbers any more, and none of it is needed or touched again."""
    whole = dict(build(family).named_parameters())
    taken: dict[int, tuple[nn.Parameter, torch.Tensor]] = {}
    most = [0]

    def take(part: nn.Module) -> None:
        at_once = 0
        for parameter in part.parameters():
            if id(parameter) not in taken:
                at_once += parameter.numel()
                taken[id(parameter)] = (parameter, parameter.data)
                parameter.data = torch.empty(0)
        most[0] = max(most[0], at_once)

    primary = build(family, take)
    for name, parameter in primary.named_parameters():
        assert parameter.numel() == 0 and torch.equal(taken[id(parameter)][1], whole[name]), name
    assert len(taken) == len(whole)
    embeddings = getattr(primary.model.base_model, "embeddings", primary.model.get_input_embeddings())
    in_embeddings = sum(taken[id(parameter)][1].numel() for parameter in embeddings.parameters())
    a_layer = primary.family.layer_list(primary.model)[1]
    in_a_layer = sum(taken[id(parameter)][1].numel() for parameter in a_layer.parameters())
    assert most[0] == max(in_embeddings, in_a_layer), "never more than one part at a time"
    tied = primary.model.get_output_embeddings().weight is primary.token_embeddings
    assert tied == (family not in bodies.UNTIED)


@pytest.mark.parametrize("family", bodies.FAMILIES)
def test_buffers_are_moved_to_where_the_model_runs(family):
    """The CPU twin of a GPU: what `move_buffers` leaves behind would be read on the wrong device."""
    from megamini.training.engines.deepspeed_engine import move_buffers

    primary = build(family)
    move_buffers(primary, "meta")
    assert all(buffer.is_meta for buffer in primary.buffers()) and not primary.token_embeddings.is_meta
    assert primary.state_dict().keys() == build(family).state_dict().keys(), "what is not saved stays so"

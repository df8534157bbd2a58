"""Parameters, FLOPs and activations of low-rank updates by formula, against peft's own modules."""

import pytest

from megamini.costs import flops as compute
from megamini.costs.flops import BodyShape
from megamini.models.families import family_of
from megamini.models.lora import add_factors
from megamini.recipes.objective import LoraSection
from tests.costs.test_compute import (
    BLOCK,
    DECODERS,
    MASKED,
    _config,
    _counted,
    _head_loss,
    _kept_bytes,
    _model,
    _tokens,
)

pytest.importorskip("peft")
RANK = 6


def with_factors(model):
    """The model with its factors, which train beside both token matrices; as many parameters as these have."""
    factors = add_factors(model, family_of(model.config), LoraSection(rank=RANK))
    trained = {id(one): one for one in (*factors, model.get_input_embeddings().weight, model.lm_head.weight)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return sum(one.numel() for one in trained.values())


@pytest.mark.parametrize("family", DECODERS)
def test_parameters(family):
    model = _model(_config(family))
    trained = with_factors(model)
    shape = BodyShape.from_config(model.config, lora_rank=RANK)
    assert sum(compute.parameter_counts(shape).values()) == model.num_parameters()
    assert compute.trainable_parameters(shape, "lora") == trained
    assert compute.matrix_parameters(shape, "lora") == 0


@pytest.mark.parametrize("family", DECODERS)
def test_flops(family):
    model = _model(_config(family))
    with_factors(model)
    counted = _counted(lambda: _head_loss(model, model.base_model(_tokens()).last_hidden_state).backward())
    shape = BodyShape.from_config(model.config, lora_rank=RANK)
    assert compute.training_flops(shape, BLOCK, MASKED, "lora") == pytest.approx(counted, rel=0.01)
    plain = BodyShape.from_config(model.config)
    alone, standard = (compute.training_flops(plain, BLOCK, MASKED, name) for name in ("embeddings", "standard"))
    assert alone == standard < compute.training_flops(shape, BLOCK, MASKED, "lora")


@pytest.mark.parametrize("family", DECODERS)
def test_activations(family):
    kept = {}
    for layers in (2, 4):
        config = _config(family, num_hidden_layers=layers)
        model = type(_model(config))(config).train()
        with_factors(model)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept[layers] = _kept_bytes(model.base_model, weights)
    shape = BodyShape.from_config(config, lora_rank=RANK)
    expected = compute.activation_memory(shape, BLOCK, 1, MASKED, "lora", precision="fp32", dropout=False).layers
    assert expected / 4 == pytest.approx((kept[4] - kept[2]) / 2, rel=0.1)


def test_llama_3_8b_by_hand():
    """Rank 8 over all seven matrices of 32 layers: 20,971,520 parameters (8 x (2 x 8,192 + 2 x 5,120 + 3 x 18,432))."""
    shape = BodyShape(layers=32, hidden=4096, heads=32, ffn=14336, vocab=128_256, gated_ffn=True, kv_heads=8,
                      transform=False, tied=False, lora_rank=8)  # fmt: skip
    assert compute.parameter_counts(shape)["low_rank_updates"] == 20_971_520

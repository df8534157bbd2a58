"""Dropout on a CPU: the shares it promises, and the library's own results wherever nothing is dropped."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM

from megamini.models import cpu_dropout
from megamini.models.cpu_dropout import ATTENTION, attention_with_dropout, draw_dropout_fast, drop
from megamini.models.families import FAMILIES
from megamini.models.primary_model import PrimaryModel
from megamini.training.engines.plain_engine import PlainEngine
from tests.models import bodies

SHARES = (0.1, 0.25, 0.5)


@pytest.mark.parametrize("share", SHARES)
def test_as_many_are_dropped_as_was_said_and_the_others_scaled(share):
    torch.manual_seed(0)
    dropped = drop(torch.ones(1000, 1001), share)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - share)], rel=1e-4)
    of_rows, deviation = (dropped == 0).float().mean(1), (share * (1 - share) / 1001) ** 0.5
    assert of_rows.mean() == pytest.approx(share, abs=5 * deviation / 1000**0.5)
    assert of_rows.std() == pytest.approx(deviation, rel=0.15), "as many rows far from the mean as chance has"


def test_the_mean_is_kept_in_bf16_too():
    torch.manual_seed(0)
    states = torch.rand(1_000_000).bfloat16()
    kept = drop(states, 0.1).float().sum() / states.float().sum()
    assert kept == pytest.approx(1, abs=1e-3), "1.1111 rounded to bf16 would be 0.15% too little"


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 8])
def test_neighbours_are_independent(distance):
    torch.manual_seed(0)
    kept = (drop(torch.ones(1_000_000), 0.3) != 0).float()
    together = (kept[distance:] * kept[:-distance]).mean()
    assert together == pytest.approx(0.49, abs=0.003)


def test_nothing_everything_and_one_element():
    states = torch.randn(7)
    assert torch.equal(drop(states, 0.0), states)
    assert torch.equal(drop(states, 1.0), torch.zeros(7))
    assert drop(torch.ones(()), 0.0).shape == ()


def test_the_generator_decides():
    def drawn(seed):
        torch.manual_seed(seed)
        return drop(torch.ones(333), 0.1)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_attention_drops_shares_before_they_weigh_the_values():
    query, key, value = (torch.randn(2, 3, 9, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    torch.manual_seed(5)
    out, _ = attention_with_dropout(nn.Identity(), query, key, value, None, dropout=0.2)
    torch.manual_seed(5)
    noise = drop(torch.ones(2, 3, 9, 9, dtype=torch.float64), 0.2)
    expected = torch.einsum("bhqk,bhkd->bqhd", torch.softmax(query @ key.mT / 2, -1) * noise, value)
    assert torch.allclose(out, expected, atol=1e-12)
    direction = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, (query, key, value), direction),
        torch.autograd.grad(expected, (query, key, value), direction),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_attention_in_bf16_is_worked_out_in_fp32():
    query, key, value = (3 * torch.randn(2, 3, 40, 16) for _ in range(3))
    low = [states.bfloat16() for states in (query, key, value)]
    torch.manual_seed(5)
    out, _ = attention_with_dropout(nn.Identity(), *low, None, dropout=0.2)
    torch.manual_seed(5)
    expected, _ = attention_with_dropout(nn.Identity(), *(states.float() for states in low), None, dropout=0.2)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected.bfloat16())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_library_s_results_where_nothing_is_dropped(family):
    torch.manual_seed(0)
    config = bodies.small_config(family, **dict.fromkeys(FAMILIES[family].dropout_keys, 0.0))
    model = bodies.auto_class(family).from_config(config, attn_implementation="sdpa")
    ids = torch.randint(5, config.vocab_size, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    inputs = [{"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}]
    before = [model(**values).logits for values in inputs]
    draw_dropout_fast(model)
    for values, logits in zip(inputs, before, strict=True):
        assert torch.equal(model(**values).logits, logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_dropout_of_a_family_and_on_average_the_same(family, monkeypatch):
    torch.manual_seed(0)
    config = bodies.small_config(family, **dict.fromkeys(FAMILIES[family].dropout_keys, 0.1))
    model = bodies.auto_class(family).from_config(config, attn_implementation="sdpa")
    ids = torch.randint(5, config.vocab_size, (2, 12))
    evaluated = model.eval()(input_ids=ids).logits.detach()
    model.train()

    def average() -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([model(input_ids=ids).logits for _ in range(300)]).mean(0)

    theirs = average()
    draw_dropout_fast(model)
    assert not [name for name, module in model.named_modules() if type(module) is nn.Dropout]
    assert model.config._attn_implementation == ATTENTION
    shapes = []
    monkeypatch.setattr(cpu_dropout, "drop", lambda states, share: shapes.append(states.ndim) or drop(states, share))
    ours = average()
    # ModernBERT's sliding layers have a mask, and go to the library; so do decoders, which see one side.
    own = 0 if family in bodies.DECODERS else 2 if family == "modernbert" else bodies.LAYERS
    assert shapes.count(4) == 300 * own, "shares of attention"
    if family not in bodies.DECODERS or "hidden_dropout" in FAMILIES[family].dropout_keys:
        assert shapes.count(3) > 300 * bodies.LAYERS, "hidden states"
    # Dropout moves the mean itself a little, through norms and GELU; theirs says by how much it is off by chance.
    assert (ours - theirs).norm() < 1.5 * (theirs - evaluated).norm() + 1e-6
    assert not torch.equal(ours, theirs)


def test_eager_attention_stays_what_the_recipe_says():
    model = AutoModelForMaskedLM.from_config(bodies.small_config("roberta"), attn_implementation="eager")
    draw_dropout_fast(model)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("compiled, fast", [(False, True), (True, False)])
def test_the_plain_engine_draws_so_on_a_cpu_unless_it_compiles(compiled, fast):
    recipe = bodies.small_recipe(family="roberta")
    model = PrimaryModel(AutoModelForMaskedLM.from_config(bodies.small_config("roberta"), attn_implementation="sdpa"))
    training = recipe.training.model_copy(update={"compile": compiled})
    engine = PlainEngine(model, recipe.optimizer, training, accumulation=1, device=torch.device("cpu"))
    assert (engine.model.model.config._attn_implementation == ATTENTION) == fast
    assert any(type(module) is nn.Dropout for module in engine.model.modules()) != fast


@pytest.mark.parametrize("family", bodies.DECODERS)
def test_a_decoder_with_dropout_sees_nothing_of_what_comes(family):
    config = bodies.small_config(family, **dict.fromkeys(FAMILIES[family].dropout_keys, 0.1))
    model = bodies.auto_class(family).from_config(config, attn_implementation="sdpa").train()
    draw_dropout_fast(model)
    ids = torch.randint(5, config.vocab_size, (1, 12))
    states = model.base_model(input_ids=ids, output_hidden_states=True, use_cache=False)
    embedded = states.hidden_states[0]
    looked_at = states.last_hidden_state[0, 5] @ torch.randn(bodies.WIDTH)  # a norm's plain sum is constant
    (gradient,) = torch.autograd.grad(looked_at, embedded)
    assert gradient[0, :6].abs().sum(1).min() > 0 and not gradient[0, 6:].any()

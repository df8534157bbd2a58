"""Muon is PyTorch's, and the matrices are the right ones, each by itself."""

import pytest
import torch
from torch import nn

from megamini.costs.flops import hidden_matrices, matrix_parameters
from megamini.costs.shape import BodyShape, ExitShape
from megamini.models.primary_model import PrimaryModel
from megamini.recipes.optimizer import OptimizerSection, PretrainingOptimizerSection
from megamini.training.optimizers.muon import MOMENTUM, NewtonSchulz
from megamini.training.optimizers.optimizer import build_optimizer, parameter_groups
from tests.models.bodies import FAMILIES, small_model

SHAPES = [(32, 32), (64, 32), (32, 64), (48, 16)]


def section(**values: object) -> PretrainingOptimizerSection:
    return PretrainingOptimizerSection(name="muon", learning_rate=1e-2, weight_decay=0.1, **values)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({}, {}),
        (
            {"momentum": 0.8, "nesterov": False, "newton_schulz_steps": 3},
            {"momentum": 0.8, "nesterov": False, "ns_steps": 3},
        ),
    ],
)
def test_twenty_updates_are_those_of_pytorchs(settings, theirs):
    """In bf16, as PyTorch's runs the iteration: the same bits of it, and weights but for their last ones."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    reference = [nn.Parameter(p.detach().clone()) for p in ours]
    groups = [
        {"params": ours, "weight_decay": 0.1, "matrices": [1] * len(ours)},
        {"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0},
    ]
    optimizer = build_optimizer(groups, section(muon={"newton_schulz_precision": "bf16", **settings}), "fp32")
    muon = torch.optim.Muon(reference, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw", **theirs)
    for _ in range(20):
        for own, other in zip(ours, reference, strict=True):
            other.grad = torch.randn_like(other)
            own.grad = other.grad.clone()
        optimizer.step()
        muon.step()
    for own, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=2e-7)
        torch.testing.assert_close(optimizer.state[own][MOMENTUM], muon.state[other]["momentum_buffer"], rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_is_near_orthogonal_and_of_adamws_size(shape):
    """Singular values end within [0.5, 1.5] or so (Jordan et al. 2024), here times 0.2 sqrt(larger side)."""
    torch.manual_seed(0)
    update = NewtonSchulz(5, torch.float32)(torch.randn(shape))
    values = torch.linalg.svdvals(update) / (0.2 * max(shape) ** 0.5)
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert update.square().mean().sqrt() == pytest.approx(0.2, rel=0.25)


def test_no_gradient_moves_nothing_and_zero_gives_no_nan():
    parameter, other = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    groups = [{"params": [parameter, other], "weight_decay": 0.0, "matrices": [1, 1]}]
    optimizer = build_optimizer([*groups, {"params": [nn.Parameter(torch.zeros(1))]}], section(), "fp32")
    other.grad = torch.zeros(4, 4)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(4, 4))
    assert torch.equal(other, torch.ones(4, 4))


def test_a_fused_weight_moves_as_its_matrices_would():
    """ModernBERT's queries, keys and values below one another, as RoBERTa has them apart."""
    torch.manual_seed(0)
    apart = [nn.Parameter(torch.randn(16, 16)) for _ in range(3)]
    fused = nn.Parameter(torch.cat([p.detach() for p in apart]))
    groups = [{"params": [*apart, fused], "weight_decay": 0.1, "matrices": [1, 1, 1, 3]}]
    optimizer = build_optimizer([*groups, {"params": [nn.Parameter(torch.zeros(1))]}], section(), "fp32")
    for _ in range(3):
        fused.grad = torch.randn(48, 16)
        for number, parameter in enumerate(apart):
            parameter.grad = fused.grad[16 * number : 16 * (number + 1)].clone()
        optimizer.step()
    assert torch.equal(fused, torch.cat(apart))


@pytest.mark.parametrize("family", FAMILIES)
def test_muon_gets_the_matrices_of_layers_and_heads(family):
    model = PrimaryModel(small_model(family), exits=(1,))
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, section())
    (muon,) = [group for group in groups if "matrices" in group]
    names = {name_of[parameter] for parameter in muon["params"]}
    two_dimensional = {name for name, parameter in model.named_parameters() if parameter.dim() == 2}
    of_tokens = {name_of[matrix] for matrix in model.token_matrices}  # tied ones in some families by the head's name
    assert two_dimensional - names == {name for name in two_dimensional if "embeddings" in name} | of_tokens
    assert sorted(p.numel() for g in groups for p in g["params"]) == sorted(p.numel() for p in model.parameters())

    shape = BodyShape.from_config(model.model.config)
    assert matrix_parameters(shape, "minijoint", (ExitShape(1),)) == sum(p.numel() for p in muon["params"])
    assert sum(hidden_matrices(shape, "minijoint", (ExitShape(1),)).values()) == sum(muon["matrices"])
    assert {3, 2} <= set(muon["matrices"]) if family == "modernbert" else set(muon["matrices"]) == {1}


def test_without_muon_the_groups_are_adamws():
    model = PrimaryModel(small_model("roberta"), exits=(1,))
    groups = parameter_groups(model, OptimizerSection(learning_rate=1e-2))
    assert not any("matrices" in group for group in groups)
    assert type(build_optimizer(groups, OptimizerSection(learning_rate=1e-2), "fp32")) is torch.optim.AdamW

"""What moves the parameters: AdamW, alone or beside Muon, with the parameter groups that every engine shares."""

from typing import Any

import torch
from torch import nn

from megamini.models.trained_model import TrainedModel
from megamini.recipes.optimizer import OptimizerSection
from megamini.training.optimizers.muon import MuonWithAuxAdamW, NewtonSchulz

# The token matrix is a group of its own, and the first: active forgetting resets its optimizer state as a whole.
TOKEN_GROUP = 0


def parameter_groups(model: TrainedModel, section: OptimizerSection) -> list[dict[str, Any]]:
    """Trainable parameters as the token matrices, Muon's matrices, the other ones (decayed), and biases and norms (not
    decayed). Muon's group says in `matrices` how many lie in each of its parameters."""
    tokens = [p for p in model.token_matrices if p.requires_grad]
    muon = dict(model.hidden_matrices) if section.muon_settings else {}
    taken = {id(p) for p in (*tokens, *muon)}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    decay = section.weight_decay
    groups = [
        {"params": tokens, "weight_decay": decay},
        {"params": list(muon), "weight_decay": decay, "matrices": list(muon.values())},
        {"params": [p for p in others if _dimensions(p) >= 2], "weight_decay": decay},
        {"params": [p for p in others if _dimensions(p) < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _dimensions(parameter: nn.Parameter) -> int:
    """Of the whole parameter, where ZeRO-3 has left this rank a flat share of it."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def adamw_settings(section: OptimizerSection) -> dict[str, Any]:
    """Arguments of AdamW that do not differ between groups."""
    return {"lr": section.learning_rate, "betas": section.betas, "eps": section.eps}


def build_optimizer(
    groups: list[dict[str, Any]], section: OptimizerSection, precision: str
) -> torch.optim.AdamW | MuonWithAuxAdamW:
    """PyTorch's fused AdamW, which works on CPU and CUDA; with Muon for the groups that have `matrices`."""
    muon = section.muon_settings
    if muon is None:
        return torch.optim.AdamW(groups, fused=True, **adamw_settings(section))
    in_bf16 = (muon.newton_schulz_precision or precision) == "bf16"
    iteration = NewtonSchulz(muon.newton_schulz_steps, torch.bfloat16 if in_bf16 else torch.float32)
    return MuonWithAuxAdamW(groups, section, iteration, **adamw_settings(section))


def forget_moments(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> None:
    """Put the optimizer's state of one tensor back to where it was before the first step."""
    state = optimizer.state.get(parameter, {})
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            value.zero_()
        else:
            state[name] = 0  # DeepSpeed's CPU Adam counts its steps in an int

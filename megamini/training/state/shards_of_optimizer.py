"""The optimizer's state (AdamW's moments, Muon's momentum) as slices of a checkpoint, and back, for every engine."""

from typing import Any

import torch

from megamini.training.state.shards import MOMENTS, STEP, WEIGHT, Shards


def tensors_of(weight: torch.Tensor, state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a slice: a flat weight with the optimizer's state of it, which is empty before the first step."""
    tensors = {WEIGHT: weight.detach().reshape(-1)}
    tensors |= {kind: state[kind].reshape(-1) for kind in MOMENTS if kind in state}
    if STEP in state:
        tensors[STEP] = as_step(state[STEP])
    return tensors


def as_step(count: Any) -> torch.Tensor:
    """AdamW's count of steps, a tensor or (DeepSpeed's CPU Adam) a number, as fp32 [1]. A copy, since many slices of
    one rank have the same, and safetensors writes no memory twice."""
    return torch.as_tensor(count, dtype=torch.float32).reshape(1).clone()


def load_whole(shards: Shards, name: str, weight: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Read a parameter that this rank holds as a whole, and the optimizer's state of it."""

    def read(kind: str) -> torch.Tensor | None:
        values = shards.read(kind, name, 0, weight.numel())
        return None if values is None else values.reshape(weight.shape).to(weight.device)

    with torch.no_grad():
        weight.copy_(read(WEIGHT))
    optimizer.state.pop(weight, None)
    if moments := shards.moments(name):
        optimizer.state[weight] = {kind: read(kind) for kind in moments}
        if (step := shards.step(name)) is not None:
            optimizer.state[weight][STEP] = step.reshape(()).to(weight.device)

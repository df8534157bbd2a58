"""What the loop asks of an engine: a small interface, which plain PyTorch and DeepSpeed answer alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from megamini.data.batches import Batch
from megamini.models.trained_model import TrainedModel
from megamini.training.state.shards import Shards, Slice

# Of weights and activations, by `training.precision`.
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """Outcome of an update: whether the optimizer moved, and the global gradient norm before clipping."""

    applied: bool
    gradient_norm: float


class Engine(Protocol):
    """One training process among `world_size`. Methods marked *all ranks* are collectives."""

    model: TrainedModel
    device: torch.device
    rank: int
    world_size: int
    description: str
    states_on_disk: bool

    def forward_backward(self, batch: Batch) -> torch.Tensor:
        """Accumulate the gradients of one micro-batch. *All ranks.* Returns each head's mean loss, fp32 [heads]."""

    def step(self, learning_rate: float) -> StepResult:
        """Clip and update after the last micro-batch; a gradient that is not finite changes nothing. *All ranks.*"""

    def evaluate(self, batch: Batch) -> torch.Tensor:
        """Negative log-likelihoods without dropout, fp32 [heads, R]. *All ranks.*"""

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a small tensor. *All ranks.*"""

    def gather_objects(self, value: Any) -> list[Any]:
        """One small Python object of every rank, in the order of ranks. *All ranks.*"""

    def replace_token_matrices(self, matrices: Sequence[torch.Tensor]) -> None:
        """Overwrite the model's token matrices [V, d] and forget their optimizer state. *All ranks*, with the same."""

    def parts(self) -> Iterator[list[Slice]]:
        """What this rank holds of all that trains, as views of its memory; the ranks together hold it once.

        One part, except where states lie on disk: there each is in memory until the next is asked for.
        """

    def load(self, shards: Shards) -> None:
        """Read back this rank's part of what the slices of all ranks held. *All ranks.*"""

    def scaler_state(self) -> dict[str, float]:
        """Where fp16's loss scale stands; empty without one."""

    def set_scaler_state(self, values: dict[str, float]) -> None:
        """The inverse of `scaler_state`."""

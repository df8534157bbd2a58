"""The protocol of a model that engines and loop train: `PrimaryModel` in pretraining, `RelearnModel` for embeddings."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn


class TrainedModel(Protocol):
    """A module whose heads' losses are summed. Calling it gives (loss, negative log-likelihoods [heads, R])."""

    head_names: tuple[str, ...]
    token_matrices: tuple[nn.Parameter, ...]
    """The token embedding matrices and, where they are not tied to these, the output matrices."""
    hidden_matrices: tuple[tuple[nn.Parameter, int], ...]
    """Weights of linear maps that train, but for token matrices, each with how many matrices it holds one below the
    other (ModernBERT keeps queries, keys and values in one)."""
    layers: nn.ModuleList
    """The layers that a batch goes through, bottom first."""
    clipped_together: list[list[nn.Parameter]]
    """Trained parameters, by the gradient norms that clip them."""

    def __call__(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def stop_head(self, name: str) -> None:
        """Train this head no more; only heads that share nothing that trains can be stopped alone."""

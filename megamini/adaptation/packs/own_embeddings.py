"""A model's own embeddings, output bias and tokenizer, kept while a pack is plugged in, and put back exactly."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_KEPT = "_megamini_own_embeddings"


@dataclass(frozen=True)
class OwnEmbeddings:
    """Copies of a model's token matrix [V, d], of an output matrix [V, d] that is not tied to it, and of its output
    bias [V], in the model's precision; the tokenizer; `entry`: what the configuration says under `megamini`, in a
    tuple, or None where it says nothing there."""

    matrix: torch.Tensor
    output_matrix: torch.Tensor | None
    output_bias: torch.Tensor | None
    bias_trains: bool
    tokenizer: PreTrainedTokenizerBase
    entry: tuple[Any] | None

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> "OwnEmbeddings":
        """A copy of what `model` speaks now."""
        matrix, output = token_matrix(model), projection(model)
        untied = None if output is None or output.weight is matrix else output.weight
        bias = None if output is None else output.bias
        return cls(
            matrix.detach().clone(),
            None if untied is None else untied.detach().clone(),
            None if bias is None else bias.detach().clone(),
            bias is not None and bias.requires_grad,
            tokenizer,
            (model.config.megamini,) if hasattr(model.config, "megamini") else None,
        )

    def put_back(self, model: PreTrainedModel) -> PreTrainedTokenizerBase:
        """Give them to `model`, whatever it speaks, bit for bit; returns the tokenizer."""
        model.resize_token_embeddings(len(self.matrix), mean_resizing=False)
        output = projection(model)
        with torch.no_grad():
            token_matrix(model).copy_(self.matrix)
            if output is not None and self.output_matrix is not None:
                output.weight.copy_(self.output_matrix)
            if output is not None and self.output_bias is not None:
                output.bias.copy_(self.output_bias)
                output.bias.requires_grad_(self.bias_trains)
        model.tie_weights()
        if self.entry is not None:
            (model.config.megamini,) = self.entry
        elif hasattr(model.config, "megamini"):
            del model.config.megamini
        return self.tokenizer


def keep(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Keep what `model` speaks, beside it; where something is kept already, that stays."""
    if kept(model) is None:
        setattr(model, _KEPT, OwnEmbeddings.of(model, tokenizer))


def kept(model: PreTrainedModel) -> OwnEmbeddings | None:
    """What was kept of `model`, if anything was."""
    return getattr(model, _KEPT, None)


def forget(model: PreTrainedModel) -> None:
    """Keep nothing any longer."""
    if kept(model) is not None:
        delattr(model, _KEPT)


def token_matrix(model: PreTrainedModel) -> torch.Tensor:
    """The model's own token matrix [V, d], not a copy."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight


def projection(model: PreTrainedModel) -> nn.Linear | None:
    """What turns hidden states into logits over the vocabulary; None where a task head takes its place."""
    output = model.get_output_embeddings()
    return output if isinstance(output, nn.Linear) else None

"""What the three kinds of task have in common: the interface, and the kinds by name."""

from collections.abc import Sequence
from typing import Any, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.downstream.kinds.limits import Limits
from megamini.downstream.metrics.measurement import Measurement
from megamini.downstream.task_data.examples import Example


class Kind(Protocol):
    """How examples of one kind become inputs of a model, and the model's outputs a score."""

    auto_class: Any
    """The class of `transformers` that makes the model from a checkpoint."""

    def labels_of(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """The labels that occur, in a fixed order; none where the kind has no labels."""

    def training_inputs(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        label_ids: dict[str, int],
    ) -> list[dict[str, Any]]:
        """Inputs with their labels, as the model takes them."""

    def measure(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[Example],
        limits: Limits,
        language: str,
        batch_size: int,
    ) -> Measurement:
        """The model on the examples. `language` decides how answers are compared."""

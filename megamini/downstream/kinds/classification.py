"""Classification: classes of one text or of a pair of texts."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import encode
from megamini.downstream.kinds.forward import outputs_of
from megamini.downstream.kinds.limits import Limits
from megamini.downstream.metrics.classes import macro_f1
from megamini.downstream.metrics.measurement import Measurement, ratio
from megamini.downstream.task_data.examples import TextExample


class Classification:
    """A class for each text or pair; what is too long loses its end, of a pair the longer text first."""

    auto_class = AutoModelForSequenceClassification

    def labels_of(self, examples: Sequence[TextExample]) -> tuple[str, ...]:
        return tuple(sorted({example.label for example in examples}))

    def training_inputs(
        self,
        examples: Sequence[TextExample],
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        label_ids: dict[str, int],
    ) -> list[dict[str, Any]]:
        inputs = encode_texts(examples, tokenizer, limits.max_length)
        return [{**one, "labels": label_ids[example.label]} for one, example in zip(inputs, examples, strict=True)]

    def measure(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[TextExample],
        limits: Limits,
        language: str,
        batch_size: int,
    ) -> Measurement:
        predicted = self.predicted(model, tokenizer, examples, limits, language, batch_size)
        return measure_classes([example.label for example in examples], predicted)

    def predicted(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[TextExample],
        limits: Limits,
        title: str,
        batch_size: int,
    ) -> list[str]:
        """The model's class of each example. title: what the progress bar says."""
        inputs = encode_texts(examples, tokenizer, limits.max_length)
        logits = outputs_of(model, inputs, tokenizer.pad_token_id, batch_size, title)
        return [model.config.id2label[int(scores.argmax())] for (scores,) in logits]


def measure_classes(gold: Sequence[str], predicted: Sequence[str]) -> Measurement:
    """Accuracy and macro-F1."""
    right = [(int(one == other), 1) for one, other in zip(gold, predicted, strict=True)]
    return Measurement({"accuracy": ratio(right), "macro_f1": macro_f1(gold, predicted)}, {"accuracy": right})


def encode_texts(
    examples: Sequence[TextExample], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, list[int]]]:
    """Token ids of each text or pair with its special tokens."""
    columns = [list(column) for column in zip(*(example.texts for example in examples), strict=True)]
    encoded = encode(tokenizer, *columns, truncation=True, max_length=max_length)
    return [
        {key: encoded[key][row] for key in tokenizer.model_input_names if key in encoded}
        for row in range(len(examples))
    ]

"""Tagging: a tag for each word, read off its first piece."""

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import encode
from megamini.downstream.kinds.forward import IGNORED, outputs_of
from megamini.downstream.kinds.limits import Limits
from megamini.downstream.metrics.measurement import Measurement, ratio
from megamini.downstream.metrics.tag_schemes import entity_counts, entity_f1, scheme_of
from megamini.downstream.task_data.examples import TaggedExample
from megamini.errors import UserError

# What a word gets that no piece stands for, such as a lone joiner that the tokenizer drops.
_OUTSIDE = "O"
# The sentence and the word of each input's first pieces: position in the input -> word.
_Words = tuple[int, dict[int, int]]


class Tagging:
    """Only the first piece of a word is trained on and read; a long sentence is cut into several inputs, so that every
    word has its turn."""

    auto_class = AutoModelForTokenClassification

    def labels_of(self, examples: Sequence[TaggedExample]) -> tuple[str, ...]:
        return tuple(sorted({tag for example in examples for tag in example.tags if tag is not None}))

    def training_inputs(
        self,
        examples: Sequence[TaggedExample],
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        label_ids: dict[str, int],
    ) -> list[dict[str, Any]]:
        """Inputs without a labelled token are left out: nothing can be learned of them, and the mean loss of a batch of
        such is no number. Raises UserError where none is left."""
        inputs, words_at = encode_words(examples, tokenizer, limits.max_length)
        labelled = []
        for one, (sentence, words) in zip(inputs, words_at, strict=True):
            labels = [IGNORED] * len(one["input_ids"])
            for position, word in words.items():
                tag = examples[sentence].tags[word]
                labels[position] = IGNORED if tag is None else label_ids[tag]
            if any(label != IGNORED for label in labels):
                labelled.append({**one, "labels": labels})
        if not labelled:
            raise UserError("the tokenizer has no piece for any word with a tag: nothing to train on")
        return labelled

    def measure(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[TaggedExample],
        limits: Limits,
        language: str,
        batch_size: int,
    ) -> Measurement:
        predicted = self.predicted(model, tokenizer, examples, limits, language, batch_size)
        told = [[_OUTSIDE if tag is None else tag for tag in tags] for tags in predicted]
        return measure_tags([example.tags for example in examples], told, model.config.id2label.values())

    def predicted(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[TaggedExample],
        limits: Limits,
        title: str,
        batch_size: int,
    ) -> list[list[str | None]]:
        """The model's tag of each word; None where no piece stands for it. title: what the progress bar says."""
        inputs, words_at = encode_words(examples, tokenizer, limits.max_length)
        logits = outputs_of(model, inputs, tokenizer.pad_token_id, batch_size, title)
        predicted: list[list[str | None]] = [[None] * len(example.words) for example in examples]
        for (scores,), (sentence, words) in zip(logits, words_at, strict=True):
            for position, word in words.items():
                predicted[sentence][word] = model.config.id2label[int(scores[position].argmax())]
        return predicted


def measure_tags(
    gold: Sequence[Sequence[str | None]], predicted: Sequence[Sequence[str]], labels: Iterable[str] = ()
) -> Measurement:
    """Accuracy over all words with a tag and, where the tags are those of entities, precision, recall and F1 of them;
    what counts in accuracy and F1, by sentence.

    labels: what could have been predicted, beside what was; it tells the tags' scheme.
    """
    pairs = [
        [pair for pair in zip(*both, strict=True) if pair[0] is not None] for both in zip(gold, predicted, strict=True)
    ]
    gold, predicted = ([[pair[side] for pair in sentence] for sentence in pairs] for side in (0, 1))
    right = [(sum(one == other for one, other in sentence), len(sentence)) for sentence in pairs]
    values, parts = {"accuracy": ratio(right)}, {"accuracy": right}
    if scheme := scheme_of({*labels, *(tag for sentence in pairs for pair in sentence for tag in pair)}, gold):
        counts = entity_counts(gold, predicted, scheme)
        values |= dict(zip(("precision", "recall", "f1"), entity_f1(counts), strict=True))
        parts["f1"] = [(2 * both, ours + theirs) for both, ours, theirs in counts]
    return Measurement(values, parts)


def encode_words(
    examples: Sequence[TaggedExample], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[dict[str, list[int]]], list[_Words]]:
    """Token ids of the sentences, and per input its sentence and where its words begin; each word begins once."""
    tokenizer = _that_begins_words(tokenizer)
    encoded = encode(
        tokenizer,
        [list(example.words) for example in examples],
        is_split_into_words=True,
        truncation=True,
        max_length=max_length,
        return_overflowing_tokens=True,
    )
    inputs, words_at = [], []
    previous: tuple[int, int | None] = (-1, None)  # sentence and word of the piece before, also across inputs
    for row, sentence in enumerate(encoded["overflow_to_sample_mapping"]):
        inputs.append({key: encoded[key][row] for key in tokenizer.model_input_names if key in encoded})
        words = {}
        for position, word in enumerate(encoded.word_ids(row)):
            if word is not None and previous != (sentence, word):
                words[position] = word
                previous = (sentence, word)
        words_at.append((sentence, words))
    return inputs, words_at


def _that_begins_words(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer would take each word of a list for the middle of one: it gets the space in front."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    changed = [part for part in _parts(backend["pre_tokenizer"]) if part["type"] == "ByteLevel"]
    if not changed:
        return tokenizer
    for part in changed:
        part["add_prefix_space"] = True
    own = copy.deepcopy(tokenizer)
    own.backend_tokenizer.pre_tokenizer = Tokenizer.from_str(json.dumps(backend)).pre_tokenizer
    return own


def _parts(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    return pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]

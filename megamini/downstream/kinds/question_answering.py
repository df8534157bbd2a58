"""Question answering: spans of a context (Devlin et al. 2019, section 4.2), scored over sliding windows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import regex
from transformers import AutoModelForQuestionAnswering, PreTrainedModel, PreTrainedTokenizerBase

from megamini.downstream.kinds.forward import outputs_of
from megamini.downstream.kinds.limits import Limits
from megamini.downstream.kinds.windows import Window, cut_windows
from megamini.downstream.metrics.answers import Normalization, answer_f1, best_over_gold, exact_match, normalize
from megamini.downstream.metrics.measurement import Measurement, ratio
from megamini.downstream.task_data.examples import Answer, QuestionExample

_BEST = 20  # starts and ends of a window that are combined
_NULL_POSITION = 0  # the opening special token stands for "no answer here"


class QuestionAnswering:
    """Extractive question answering; `form` is what is compared of an answer."""

    auto_class = AutoModelForQuestionAnswering

    def __init__(self, form: Normalization = normalize) -> None:
        self._form = form

    def labels_of(self, examples: Sequence[QuestionExample]) -> tuple[str, ...]:
        return ()

    def training_inputs(
        self,
        examples: Sequence[QuestionExample],
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        label_ids: dict[str, int],
    ) -> list[dict[str, Any]]:
        """A window without the whole answer is labelled with the null position. Questions that have an answer, but none
        where it should be, are left out."""
        inputs = []
        examples = [one for one in examples if not one.answers or _first_placed(one)]
        for window in cut_windows(examples, tokenizer, limits):
            start, end = _first_answer(window, examples[window.example]) or (_NULL_POSITION, _NULL_POSITION)
            inputs.append({**window.inputs, "start_positions": start, "end_positions": end})
        return inputs

    def measure(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[QuestionExample],
        limits: Limits,
        language: str,
        batch_size: int,
    ) -> Measurement:
        windows = cut_windows(examples, tokenizer, limits)
        scores = outputs_of(model, [window.inputs for window in windows], tokenizer.pad_token_id, batch_size, language)
        predicted = best_answers(examples, windows, scores, limits)
        return measure_answers(examples, predicted, language, self._form)


def measure_answers(
    examples: Sequence[QuestionExample], predicted: Sequence[str], language: str, form: Normalization = normalize
) -> Measurement:
    """Means of F1 and exact match, each the best over a question's gold answers."""
    gold = [[answer.text for answer in example.answers] for example in examples]
    pairs = list(zip(predicted, gold, strict=True))
    parts = {
        name: [(best_over_gold(score, one, several, language, form), 1) for one, several in pairs]
        for name, score in (("f1", answer_f1), ("exact_match", exact_match))
    }
    return Measurement({name: ratio(own) for name, own in parts.items()}, parts)


def best_answers(
    examples: Sequence[QuestionExample],
    windows: Sequence[Window],
    scores: Sequence[tuple[np.ndarray, ...]],
    limits: Limits,
) -> list[str]:
    """The best answer to each question over its windows: start score plus end score decides.

    scores: per window (start, end), each at least as long as the window. With `limits.null_answers` the answer is the
    empty string where the null position scores higher than every span, in the window that is surest of a span.
    """
    best = [(-np.inf, "")] * len(examples)
    null = [np.inf] * len(examples)
    for window, (starts, ends) in zip(windows, scores, strict=True):
        number, context = window.example, examples[window.example].context
        null[number] = min(null[number], float(starts[_NULL_POSITION] + ends[_NULL_POSITION]))
        candidate = _best_span(window, starts, ends, limits.max_answer_length)
        if candidate is not None and candidate[0] > best[number][0]:
            score, start, stop = candidate
            # A piece may include the space in front of it.
            best[number] = (score, context[start:stop].strip())
    return [
        "" if limits.null_answers and no_answer > score else answer
        for (score, answer), no_answer in zip(best, null, strict=True)
    ]


def _best_span(window: Window, starts: np.ndarray, ends: np.ndarray, longest: int) -> tuple[float, int, int] | None:
    """(score, first character, character behind the last) of the window's best span, of at most `longest` tokens."""
    tokens = np.array([token for token, span in enumerate(window.spans) if span is not None], dtype=np.int64)
    if not len(tokens):
        return None
    first = tokens[np.argsort(-starts[tokens], kind="stable")[:_BEST]]
    last = tokens[np.argsort(-ends[tokens], kind="stable")[:_BEST]]
    lengths = last[None, :] - first[:, None] + 1
    sums = np.where((lengths >= 1) & (lengths <= longest), starts[first][:, None] + ends[last][None, :], -np.inf)
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    if not np.isfinite(sums[row, column]):
        return None  # no start among the best stands before an end
    return float(sums[row, column]), window.spans[first[row]][0], window.spans[last[column]][1]


def _first_answer(window: Window, example: QuestionExample) -> tuple[int, int] | None:
    answer = _first_placed(example)
    if answer is None:
        return None
    # White space and what is not seen (zero-width characters) may have no token.
    start, stop = regex.search(r"^[\s\p{C}]*+\K.*?(?=[\s\p{C}]*$)", answer.text, regex.DOTALL).span()
    return window.tokens_of(answer.start + start, answer.start + stop)


def _first_placed(example: QuestionExample) -> Answer | None:
    return next((answer for answer in example.answers if answer.start is not None), None)

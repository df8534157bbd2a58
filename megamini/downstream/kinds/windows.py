"""Long contexts in overlapping windows: token ids for the model, and where each token stands in the context."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex
from transformers import PreTrainedTokenizerBase

from megamini.downstream.examples import QuestionExample
from megamini.downstream.limits import Limits

# Tokens of a question at most (as for BERT on SQuAD), and at most this share of the input.
_QUESTION_TOKENS, _QUESTION_SHARE = 64, 0.5


@dataclass(frozen=True)
class Window:
    """A question with a part of its context.

    inputs: what the model takes. example: number of the example. spans: per token of the context its characters there,
    (start, stop), and None for every other token.
    """

    inputs: dict[str, list[int]]
    example: int
    spans: list[tuple[int, int] | None]

    def tokens_of(self, start: int, stop: int) -> tuple[int, int] | None:
        """First and last token that hold characters start to stop of the context; None where they are not all here."""
        inside = [
            token for token, span in enumerate(self.spans) if span is not None and span[0] < stop and span[1] > start
        ]
        if not inside or self.spans[inside[0]][0] > start or self.spans[inside[-1]][1] < stop:
            return None
        return inside[0], inside[-1]


def cut_windows(
    examples: Sequence[QuestionExample], tokenizer: PreTrainedTokenizerBase, limits: Limits
) -> list[Window]:
    """All windows of all examples, in order."""
    longest = min(_QUESTION_TOKENS, int(limits.max_length * _QUESTION_SHARE))
    questions = [_shortened(example.question, tokenizer, longest) for example in examples]
    room = limits.max_length - longest - tokenizer.num_special_tokens_to_add(pair=True)
    encoded = tokenizer(
        questions,
        [example.context for example in examples],
        truncation="only_second",
        max_length=limits.max_length,
        # At least half of each window is new, however short the model's inputs are.
        stride=min(limits.doc_stride, room // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for row, example in enumerate(encoded["overflow_to_sample_mapping"]):
        parts = encoded.sequence_ids(row)
        spans = [
            tuple(span) if part == 1 and span[1] > span[0] else None
            for part, span in zip(parts, encoded["offset_mapping"][row], strict=True)
        ]
        spans = _with_marks(spans, examples[example].context)
        inputs = {key: encoded[key][row] for key in tokenizer.model_input_names if key in encoded}
        windows.append(Window(inputs, example, spans))
    return windows


def _shortened(question: str, tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """The question up to its first `tokens` tokens."""
    spans = tokenizer(question.strip(), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return question.strip() if len(spans) <= tokens else question.strip()[: spans[tokens - 1][1]]


def _with_marks(spans: list[tuple[int, int] | None], context: str) -> list[tuple[int, int] | None]:
    """The spans, each to the end of the character that readers see there.

    A tokenizer that composes characters, or drops accents, says of a decomposed one (e and an accent; a Hangul syllable
    in three parts; a Bengali vowel in two) where its first part stands, and the rest seems to belong to no token.
    """
    ends = _ends(context)
    if ends is None:
        return spans
    starts = [span[0] for span in spans if span is not None]
    following = dict(itertools.pairwise(dict.fromkeys(starts)))
    extended = []
    for span in spans:
        if span is not None:
            start, stop = span
            # What a token of its own stands for is that token's.
            span = start, max(stop, min(ends[stop - 1], following.get(start, len(context))))
        extended.append(span)
    return extended


@lru_cache(maxsize=4)  # questions on one context follow each other
def _ends(context: str) -> list[int] | None:
    """For each character, where the visible one (Unicode's grapheme cluster) that it is part of ends; None where each
    stands for itself."""
    if context.isascii():
        return None
    return [found.end() for found in regex.finditer(r"\X", context) for _ in found[0]]

"""Long contexts in overlapping windows: token ids for the model, and where each token stands in the context."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex
from transformers import PreTrainedTokenizerBase

from megamini.data.tokenizer import encode
from megamini.downstream.kinds.limits import Limits
from megamini.downstream.task_data.examples import QuestionExample

Span = tuple[int, int]

# Tokens of a question at most (as for BERT on SQuAD), and at most this share of the input.
_QUESTION_TOKENS, _QUESTION_SHARE = 64, 0.5
_LETTERS = regex.compile(r"[\p{L}\p{N}\p{M}]+$")


@dataclass(frozen=True)
class Window:
    """A question with a part of its context.

    inputs: what the model takes. example: number of the example. spans: per token of the context its characters there,
    (start, stop), and None for every other token.
    """

    inputs: dict[str, list[int]]
    example: int
    spans: list[Span | None]

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
    encoded = encode(
        tokenizer,
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
    of_example = enumerate(encoded["overflow_to_sample_mapping"])
    for example, rows in itertools.groupby(of_example, key=lambda pair: pair[1]):
        rows = [row for row, _ in rows]
        spans = [_context_spans(encoded.sequence_ids(row), encoded["offset_mapping"][row]) for row in rows]
        whole = _whole_characters({span for one in spans for span in one if span}, examples[example].context)
        for row, own in zip(rows, spans, strict=True):
            inputs = {key: encoded[key][row] for key in tokenizer.model_input_names if key in encoded}
            windows.append(Window(inputs, example, [span and whole[span] for span in own]))
    return windows


def _context_spans(parts: list[int | None], offsets: list[tuple[int, int]]) -> list[Span | None]:
    return [tuple(span) if part == 1 and span[1] > span[0] else None for part, span in zip(parts, offsets, strict=True)]


def _shortened(question: str, tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """The question up to its first `tokens` tokens."""
    encoded = encode(tokenizer, question.strip(), add_special_tokens=False, return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    return question.strip() if len(spans) <= tokens else question.strip()[: spans[tokens - 1][1]]


def _whole_characters(spans: set[Span], context: str) -> dict[Span, Span]:
    """What each of a context's tokens really holds, where the tokenizer says less.

    One that composes characters, or drops accents, says of a decomposed one (e and an accent; a Hangul syllable in
    three parts; a Bengali vowel in two) where its first part stands; one that trims a space which was never there says
    that a word begins at its second letter. What no token is said to hold belongs to the character or word beside it.
    """
    ordered = sorted(spans)
    starts = list(dict.fromkeys(start for start, _ in ordered))
    following = dict(itertools.pairwise([*starts, len(context)]))
    ends, whole, reached = _ends(context), {}, 0
    for start, stop in ordered:
        hole = _LETTERS.search(context[reached:start]) if reached < start else None
        # What a token of its own stands for is that token's.
        last = max(stop, min(ends[stop - 1], following[start])) if ends else stop
        whole[start, stop] = (start - len(hole[0]) if hole else start, last)
        reached = max(reached, last)
    return whole


@lru_cache(maxsize=4)  # questions on one context follow each other
def _ends(context: str) -> list[int] | None:
    """For each character, where the visible one (Unicode's grapheme cluster) that it is part of ends; None where each
    stands for itself."""
    if context.isascii():
        return None
    return [found.end() for found in regex.finditer(r"\X", context) for _ in found[0]]

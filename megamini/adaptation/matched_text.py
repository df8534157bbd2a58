"""Texts whose hidden states are to match: in the new vocabulary, and beside it in the source's what says the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from megamini.adaptation.starting_points.alignment import align
from megamini.adaptation.starting_points.lexicon import Lexicon, commonest_translations
from megamini.adaptation.starting_points.piece_forms import Form
from megamini.data.blocks import Blocks
from megamini.data.tokenizer import encode
from megamini.languages.words import WordList

Span = tuple[list[int], list[int]]  # places of tokens in ours, and in theirs

_SHARE = 0.6  # of the tokens that a text may have, for one of the new language: the source cuts it into more


@dataclass(frozen=True)
class MatchedText:
    """ours, theirs: ids in the new vocabulary and in the source's, special ones too. spans: what says the same."""

    ours: list[int]
    theirs: list[int]
    spans: list[Span]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, what its pieces stand for, and how many tokens a text may have."""

    tokenizer: PreTrainedTokenizerBase
    forms: list[Form | None]
    longest: int

    def read(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[tuple[int, int, int]]]]:
        """Of each text its ids, and of those that stand for text: place, first and last character + 1, no spaces."""
        read = encode(
            self.tokenizer, list(texts), truncation=True, max_length=self.longest, return_offsets_mapping=True
        )
        for text, ids, offsets in zip(texts, read["input_ids"], read["offset_mapping"], strict=True):
            places = []
            for place, (number, (start, end)) in enumerate(zip(ids, offsets, strict=True)):
                start += len(text[start:end]) - len(text[start:end].lstrip())
                form = self.forms[number]
                if form is not None and form.text and start < end:  # no bare word mark
                    places.append((place, start, end))
            yield ids, places


def matched_texts(
    blocks: Blocks,
    count: int,
    ours: Vocabulary,
    theirs: Vocabulary,
    lexicon: Lexicon | None,
    pairs: Sequence[tuple[str, str]] | None,
) -> dict[str, list[MatchedText]]:
    """Texts by where they come from. Those of the new language are `count` or fewer, evenly spread over its blocks.

    lexicon, pairs: translations. Of what there is only the best is taken: what people translated, what a list
    translates word by word, what the source makes of the language itself.
    """
    if pairs is not None:
        return {"parallel text": translated(pairs, ours, theirs)}
    texts = _texts(blocks, count, ours)
    if lexicon is not None:
        words = commonest_translations(lexicon, theirs.tokenizer, theirs.forms)
        return {"word list": told_by_list(texts, WordList(words), ours, theirs)}
    return {"own segmentation": spelled_twice(texts, ours, theirs)}


def _texts(blocks: Blocks, count: int, ours: Vocabulary) -> list[str]:
    """Of blocks, the longest part between special tokens, from the beginning of a word on."""
    special = np.array([form is None for form in ours.forms])
    begins = np.array([form is not None and form.begins_word for form in ours.forms])
    texts = []
    for number in np.unique(np.linspace(0, len(blocks) - 1, min(count, len(blocks))).astype(np.int64)):
        (block,) = blocks.read(np.array([number]))
        parts = np.split(block, np.flatnonzero(special[block]))
        part = max(([n for n in part if not special[n]] for part in parts), key=len)
        start = int(np.argmax(begins[part])) if part else 0
        text = ours.tokenizer.decode(
            part[start : start + int(_SHARE * ours.longest)], clean_up_tokenization_spaces=False
        ).strip()
        texts += [text] if text else []
    return texts


def spelled_twice(texts: Sequence[str], ours: Vocabulary, theirs: Vocabulary) -> list[MatchedText]:
    """Texts beside themselves. A span goes from one place where both cut the text to the next; one that the source can
    only spell byte by byte is left out."""
    found = []
    for (own, places), (other, others) in zip(ours.read(texts), theirs.read(texts), strict=True):
        cuts = [0, *sorted({end for *_, end in places} & {end for *_, end in others})]
        spans = []
        for start, end in pairwise(cuts):
            told = _within(others, start, end)
            if not any(theirs.forms[other[place]].is_byte for place in told):
                spans.append((_within(places, start, end), told))
        found.append(MatchedText(own, other, _whole(spans)))
    return _with_spans(found)


def told_by_list(texts: Sequence[str], words: WordList, ours: Vocabulary, theirs: Vocabulary) -> list[MatchedText]:
    """Texts beside their translations word by word; spans are the words of the list."""
    segments = [list(words.segments(text)) for text in texts]
    mine = ours.read(["".join(one.own for one in some) for some in segments])
    others = theirs.read(["".join(one.told for one in some) for some in segments])
    found = []
    for some, (own, places), (other, their_places) in zip(segments, mine, others, strict=True):
        ends = np.cumsum([(0, 0), *((len(one.own), len(one.told)) for one in some)], axis=0).tolist()
        spans = [
            (_within(places, start[0], end[0]), _within(their_places, start[1], end[1]))
            for one, (start, end) in zip(some, pairwise(ends), strict=True)
            if one.is_listed
        ]
        found.append(MatchedText(own, other, _whole(spans)))
    return _with_spans(found)


def translated(pairs: Sequence[tuple[str, str]], ours: Vocabulary, theirs: Vocabulary) -> list[MatchedText]:
    """Lines (target, source) beside each other. A span is the whole line, or a piece and that of the other line that
    stand for each other best (IBM model 1, best in both directions)."""
    mine = list(ours.read([target for target, _ in pairs]))
    others = list(theirs.read([source for _, source in pairs]))
    numbers = [
        ([own[place] for place, *_ in places], [other[place] for place, *_ in their_places])
        for (own, places), (other, their_places) in zip(mine, others, strict=True)
    ]
    links = align(numbers, len(ours.forms), len(theirs.forms))
    scores = links.shares.multiply(links.agreement[:, None]).tocsr()
    found = []
    for (own, places), (other, their_places), (a, b) in zip(mine, others, numbers, strict=True):
        spans = [([place for place, *_ in places], [place for place, *_ in their_places])]
        if a and b:
            score = scores[a][:, b].toarray()
            best, back = score.argmax(1), score.argmax(0)
            spans += [
                ([places[n][0]], [their_places[best[n]][0]])
                for n in range(len(a))
                if back[best[n]] == n and score[n, best[n]] > 0
            ]
        found.append(MatchedText(own, other, _whole(spans)))
    return _with_spans(found)


def _within(places: list[tuple[int, int, int]], start: int, end: int) -> list[int]:
    return [place for place, _, last in places if start < last <= end]


def _whole(spans: list[Span]) -> list[Span]:
    """Those with tokens on both sides: texts may have been cut off."""
    return [span for span in spans if all(span)]


def _with_spans(texts: list[MatchedText]) -> list[MatchedText]:
    return [text for text in texts if text.spans]

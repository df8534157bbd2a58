"""Words of running text by Unicode's rules (UAX #29), as ICU finds them, and texts translated by a list of words.

`don't` and हिन्दी are whole words; scripts without spaces are cut by ICU's dictionaries (Thai, Lao, Burmese, Khmer,
Chinese, Japanese), others without spaces (Javanese) not at all. `co-op` is two words by these rules, and one where a
list has it.
"""

import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import regex
from icu4py.breakers import SentenceBreaker, WordBreaker

_LETTER = regex.compile(r"[\p{L}\p{N}]")
_BY_DICTIONARY = regex.compile(r"[\p{lb=SA}\p{lb=AK}]")
_ANYWHERE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
# What is typed in several ways, or not seen: apostrophes, hyphens, the soft hyphen, zero-width spaces and joiners.
_SPELLINGS = str.maketrans("’ʼ＇‐‑", "'''--")
_UNSEEN = regex.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")


def words(text: str) -> list[str]:
    """The words of a text, without what stands between them."""
    return [word for word in _segments(_composed(text)) if _LETTER.search(word)]


def spelling(word: str) -> str:
    """A word as lists of words are looked up by: composed, with one kind of apostrophe, without what is not seen."""
    return _UNSEEN.sub("", _composed(word))


def sentences(text: str) -> list[str]:
    """The sentences of a text by Unicode's rules (UAX #29) and its line ends, without the space around them."""
    return [
        found for line in text.splitlines() if line for one in SentenceBreaker(line, "und") if (found := one.strip())
    ]


class Segment(NamedTuple):
    """A part of a text, as lists spell it, and what is told for it: its translation where it is_listed, else itself."""

    own: str
    told: str
    is_listed: bool


class WordList:
    """Target word -> its translation, and texts in which all its words are replaced by these."""

    def __init__(self, translations: Mapping[str, str]) -> None:
        self._translations: dict[str, str] = {}
        for word, translation in translations.items():
            self._translations.setdefault(spelling(word), translation)
        self._lengths = {len(word) for word in self._translations}

    def word(self, word: str) -> str:
        """The word's translation; the word itself where the list does not have it."""
        return self._translations.get(spelling(word), word)

    def text(self, text: str, translate: Callable[[str], str] | None = None) -> str:
        """The text with the list's words and phrases as their translations, all else as it is. translate: gives the
        translation of a word of the list, as that spells it, each time it occurs; unset: the list's.

        A word of the list begins and ends where ICU's words do; in scripts without spaces also where others of the list
        do, and in Chinese and Japanese at any character. Of all ways to read a text the one is taken that leaves the
        fewest characters untranslated; then the one with the fewest words that cross a bound of ICU's; then the one of
        the fewest words.
        """
        return "".join(segment.told for segment in self.segments(text, translate))

    def segments(self, text: str, translate: Callable[[str], str] | None = None) -> Iterator[Segment]:
        """The same in parts, which make up the whole text."""
        before = ""
        for segment in self._read(text, translate or self._translations.__getitem__):
            # Where no space was needed, translations would run into each other.
            between = _ends_in_a_word(before) and _LETTER.search(segment.told)
            before = segment.told
            yield segment._replace(told=f" {segment.told}") if between else segment

    def _read(self, text: str, translate: Callable[[str], str]) -> Iterator[Segment]:
        shown, bounds = _bounds(text)
        longest = max(self._lengths, default=0)
        # For each bound what the text behind it costs, and which bound ends its first segment.
        costs: list[tuple[float, int, int]] = [(0, 0, 0)] * len(bounds)
        ends: list[tuple[int, bool]] = [(0, False)] * len(bounds)
        free = len(bounds) - 1
        for here in reversed(range(len(bounds) - 1)):
            start, is_free, of_icu = bounds[here]
            costs[here] = (math.inf, 0, 0)
            if is_free:
                left, crossing, count = costs[free]
                costs[here], ends[here] = (left + bounds[free].position - start, crossing, count + 1), (free, False)
                free = here
            for there in range(here + 1, len(bounds)):
                length = bounds[there].position - start
                if length > longest:
                    break
                if length in self._lengths and shown[start : start + length] in self._translations:
                    left, crossing, count = costs[there]
                    cost = (left, crossing + (not (of_icu and bounds[there].of_icu)), count + 1)
                    if cost < costs[here]:
                        costs[here], ends[here] = cost, (there, True)
        here = start = 0
        while here < len(bounds) - 1:
            there, listed = ends[here]
            if listed and start < here:
                yield _untranslated(shown[bounds[start].position : bounds[here].position])
            if listed:
                word = shown[bounds[here].position : bounds[there].position]
                yield Segment(word, translate(word), True)
            elif bounds[there].of_icu:
                yield _untranslated(shown[bounds[start].position : bounds[there].position])
            start = there if listed or bounds[there].of_icu else start
            here = there


def _untranslated(text: str) -> Segment:
    return Segment(text, text, False)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_SPELLINGS)


def _segments(text: str) -> list[str]:
    return list(WordBreaker(text, "und")) if text else []


class _Bound(NamedTuple):
    """Where a word of a list may begin or end. is_free: untranslated text too. of_icu: ICU's words do."""

    position: int
    is_free: bool
    of_icu: bool


def _bounds(text: str) -> tuple[str, list[_Bound]]:
    """The text as lists spell it, and all bounds in it."""
    shown, bounds = "", [_Bound(0, True, True)]
    for segment in _segments(_composed(text)):
        anywhere = _ANYWHERE.search(segment) is not None
        for part in regex.findall(r"\X", segment) if anywhere or _BY_DICTIONARY.search(segment) else [segment]:
            if seen := _UNSEEN.sub("", part):
                shown += seen
                bounds.append(_Bound(len(shown), anywhere, of_icu=False))
        bounds[-1] = _Bound(len(shown), True, of_icu=True)
    return shown, bounds


def _ends_in_a_word(text: str) -> bool:
    return bool(text) and not text[-1].isspace() and _LETTER.search(text) is not None

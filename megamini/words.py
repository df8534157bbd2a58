"""Words of running text by Unicode's rules (UAX #29), as ICU finds them, and texts translated by a list of words.

`don't` and हिन्दी are whole words; scripts without spaces are cut by ICU's dictionaries (Thai, Lao, Burmese, Khmer,
Chinese, Japanese), others without spaces (Javanese) not at all. `co-op` is two words by these rules, and one where a
list has it.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import regex
from icu4py.breakers import WordBreaker

_LETTER = regex.compile(r"[\p{L}\p{N}]")
_WITHOUT_SPACES = regex.compile(r"[\p{lb=SA}\p{lb=AK}\p{Han}\p{Hiragana}\p{Katakana}]")
# What is typed in several ways, or not seen: apostrophes, hyphens, the soft hyphen, zero-width spaces and joiners.
_SPELLINGS = str.maketrans("’ʼ＇‐‑", "'''--")
_UNSEEN = regex.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")


def words(text: str) -> list[str]:
    """The words of a text, without what stands between them."""
    return [word for word in _segments(_composed(text)) if _LETTER.search(word)]


class WordList:
    """Target word -> its translation, and texts in which all its words are replaced by these."""

    def __init__(self, translations: Mapping[str, str]) -> None:
        self._translations: dict[str, str] = {}
        for word, translation in translations.items():
            self._translations.setdefault(_UNSEEN.sub("", _composed(word)), translation)
        self._lengths = {len(word) for word in self._translations}

    def word(self, word: str) -> str:
        """The word's translation; the word itself where the list does not have it."""
        return self._translations.get(_UNSEEN.sub("", _composed(word)), word)

    def text(self, text: str) -> str:
        """The text with the list's words and phrases as their translations, all else as it is.

        A word of the list begins and ends where ICU's words do; in scripts without spaces at any character. Of all ways
        to read a text the one is taken that leaves the fewest characters untranslated; then the one with the fewest
        words that cross a bound of ICU's; then the one of the fewest words.
        """
        pieces, before = [], ""
        for piece, is_word in self._read(text):
            # Where no space was needed, translations would run into each other.
            if is_word and before and not before[-1].isspace() and _LETTER.search(before):
                pieces.append(" ")
            pieces.append(piece)
            before = piece
        return "".join(pieces)

    def _read(self, text: str) -> Iterable[tuple[str, bool]]:
        """Pieces of the text, translated or as they are, and whether a space may have to stand before it."""
        shown, bounds, of_icu = _bounds(text)
        # For each bound the cost of the text behind it, and where its first piece ends.
        costs: list[tuple[int, int, int]] = [(0, 0, 0)] * len(bounds)
        ends = [0] * len(bounds)
        longest = max(self._lengths, default=0)
        for here in reversed(range(len(bounds) - 1)):
            left, crossing, count = costs[here + 1]
            best, ends[here] = (left + bounds[here + 1] - bounds[here], crossing, count + 1), -(here + 1)
            for there in range(here + 1, len(bounds)):
                length = bounds[there] - bounds[here]
                if length > longest:
                    break
                if length in self._lengths and shown[bounds[here] : bounds[there]] in self._translations:
                    left, crossing, count = costs[there]
                    cost = (left, crossing + (not (of_icu[here] and of_icu[there])), count + 1)
                    if cost < best:
                        best, ends[here] = cost, there
            costs[here] = best
        return self._pieces(shown, bounds, of_icu, ends)

    def _pieces(
        self, shown: str, bounds: Sequence[int], of_icu: Sequence[bool], ends: Sequence[int]
    ) -> Iterable[tuple[str, bool]]:
        here, untouched = 0, ""
        while here < len(bounds) - 1:
            there = abs(ends[here])
            piece = shown[bounds[here] : bounds[there]]
            if ends[here] > 0:
                if untouched:
                    yield untouched, bool(_LETTER.search(untouched))
                    untouched = ""
                yield self._translations[piece], True
            else:
                untouched += piece
                if of_icu[there]:
                    yield untouched, bool(_LETTER.search(untouched))
                    untouched = ""
            here = there
        if untouched:
            yield untouched, bool(_LETTER.search(untouched))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_SPELLINGS)


def _segments(text: str) -> list[str]:
    return list(WordBreaker(text, "und")) if text else []


def _bounds(text: str) -> tuple[str, list[int], list[bool]]:
    """The text as lists spell it, where words of a list may begin or end in it, and which of these bounds are ICU's."""
    shown, bounds, of_icu = "", [0], [True]
    for segment in _segments(_composed(text)):
        inner = regex.findall(r"\X", segment) if _WITHOUT_SPACES.search(segment) else [segment]
        for number, part in enumerate(inner):
            seen = _UNSEEN.sub("", part)
            last = number == len(inner) - 1
            if seen:
                shown += seen
                bounds.append(len(shown))
                of_icu.append(last)
            elif last:
                of_icu[-1] = True
    return shown, bounds, of_icu

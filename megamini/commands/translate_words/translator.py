"""Source text word by word into another language: each word of a list becomes one of its translations, by chance."""

import hashlib
import random
from collections import defaultdict
from pathlib import Path

from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.errors import UserError
from megamini.languages.words import WordList, spelling, words

_LOOKED_AT = 20_000  # words of text, for whether the list is the right way round
_WRONG_WAY = 2  # times as many words of the text in the first column as in the second
_KNOWN = 0.05  # of the words; with fewer in either column, nothing is said of its direction


class Translator:
    """A word list, the other way round: source word -> its translations, in the list's case, or as the text writes it
    (Bread, BREAD)."""

    def __init__(self, path: str | Path) -> None:
        """path: lines of `target word TAB source word`, as `adaptation.lexicon`. Raises UserError where it is none."""
        self._path = path
        listed: dict[str, list[str]] = defaultdict(list)
        for target, sources in read_lexicon(path, match_case=True).items():
            for source in sources:
                listed[spelling(source)].append(target)
        self._targets = frozenset(target.lower() for found in listed.values() for target in found)
        self._translations = _with_cases(listed)
        self._list = WordList(dict.fromkeys(self._translations, ""))

    def text(self, text: str, draw: random.Random) -> tuple[str, int]:
        """The text with its listed words and phrases translated, and how many these were."""
        count = 0

        def translate(word: str) -> str:
            nonlocal count
            count += 1
            return draw.choice(self._translations[word])

        return self._list.text(text, translate), count

    def word(self, word: str, draw: random.Random) -> str | None:
        """One of the translations of one word that are one word; None where there is none."""
        found = [one for one in self._translations.get(spelling(word), ()) if " " not in one]
        return draw.choice(found) if found else None

    def check_direction(self, texts: list[str]) -> None:
        """Raises UserError where the texts are in the language of the first column rather than of the second."""
        running = [word.lower() for text in texts for word in words(text)][:_LOOKED_AT]
        if not running:
            return
        first = sum(word in self._targets for word in running) / len(running)
        second = sum(word in self._translations for word in running) / len(running)
        if first > max(_KNOWN, _WRONG_WAY * second):
            raise UserError(
                f"{self._path}: the wrong way round: its first column has {first:.0%} of the text's words, its second "
                f"{second:.0%}; lines are 'word of the new language TAB word of the text's'"
            )


def drawing(seed: int, key: str) -> random.Random:
    """Random numbers of one document or example: the same wherever it is worked on."""
    return random.Random(hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogatepass"), digest_size=16).digest())


def _with_cases(listed: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """The list with its source words in other cases too, where it does not have these itself."""
    found: dict[str, list[str]] = defaultdict(list)
    for source, targets in listed.items():
        found[source] += targets
        for form in (str.lower, _title, str.upper):
            if (other := form(source)) not in listed:
                found[other] += targets if form is str.lower else map(form, targets)
    return {source: tuple(dict.fromkeys(targets)) for source, targets in found.items()}


def _title(word: str) -> str:
    return word[:1].upper() + word[1:]

"""Exact match and F1 of answers, normalised for each language as MLQA's official evaluation does (Lewis et al. 2020).

That script is the reference: lower case, no punctuation, no articles, white space as one space; Chinese is compared by
characters. A language that it does not know is compared by words, and keeps its articles.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    # The official pattern takes the article out wherever its two letters stand, also inside a word.
    "ar": "ال",
}
_BY_CHARACTER = ("zh",)
_CHINESE = re.compile(r"[\u4e00-\u9fa5]")


def normalize(answer: str, language: str) -> str:
    """The words of an answer that are compared, with one space between."""
    text = "".join(character for character in answer.lower() if not _is_punctuation(character))
    if language in _ARTICLES:
        text = re.sub(_ARTICLES[language], " ", text)
    if language in _BY_CHARACTER:
        text = _CHINESE.sub(r" \g<0> ", text)
    return " ".join(text.split())


def exact_match(predicted: str, gold: str, language: str) -> float:
    """1 where both are the same once normalised, else 0."""
    return float(normalize(predicted, language) == normalize(gold, language))


def answer_f1(predicted: str, gold: str, language: str) -> float:
    """F1 of the words that both share, counted with repetitions; two empty answers are equal."""
    ours, theirs = normalize(predicted, language).split(), normalize(gold, language).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))


def best_over_gold(
    score: Callable[[str, str, str], float], predicted: str, gold: Sequence[str], language: str
) -> float:
    """The best score over the gold answers; a question without any is answered by the empty string."""
    return max(score(predicted, answer, language) for answer in gold or ("",))


def _is_punctuation(character: str) -> bool:
    """Unicode's punctuation, and the ASCII symbols that are not in it ($ + < = > ^ ` | ~)."""
    return unicodedata.category(character).startswith("P") or character in string.punctuation

"""Exact match and F1 of answers, as the official script of each data set computes them.

SQuAD 1.1's (Rajpurkar et al. 2016), by which XQuAD and TyDi QA are published too, whatever the language: lower case, no
ASCII punctuation, no English articles, words by white space. MLQA's (Lewis et al. 2020): no punctuation of any script,
the articles of the language, Chinese by characters; a language that its script does not know keeps its articles.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

from megamini.languages.codes import same_language

# What is compared of an answer in a language: words, with one space between.
Normalization = Callable[[str, str], str]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    # The official pattern takes the article out wherever its two letters stand, also inside a word.
    "ar": "ال",
}
_BY_CHARACTER = "zh"
_CHINESE = re.compile(r"[\u4e00-\u9fa5]")


def normalize_squad(answer: str, language: str) -> str:
    """SQuAD 1.1's; `language` decides nothing."""
    return " ".join(re.sub(_ARTICLES["en"], " ", answer.lower().translate(_NO_PUNCTUATION)).split())


def normalize(answer: str, language: str) -> str:
    """MLQA's; `language` is a code, with or without script or region."""
    text = "".join(character for character in answer.lower() if not _is_punctuation(character))
    known = _known(language)
    if known in _ARTICLES:
        text = re.sub(_ARTICLES[known], " ", text)
    if known == _BY_CHARACTER:
        text = _CHINESE.sub(r" \g<0> ", text)
    return " ".join(text.split())


def exact_match(predicted: str, gold: str, language: str, form: Normalization = normalize) -> float:
    """1 where both are the same once normalised, else 0."""
    return float(form(predicted, language) == form(gold, language))


def answer_f1(predicted: str, gold: str, language: str, form: Normalization = normalize) -> float:
    """F1 of the words that both share, counted with repetitions; 0 where they share none."""
    ours, theirs = form(predicted, language).split(), form(gold, language).split()
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def best_over_gold(
    score: Callable[[str, str, str, Normalization], float],
    predicted: str,
    gold: Sequence[str],
    language: str,
    form: Normalization = normalize,
) -> float:
    """The best score over the gold answers; a question without any is answered by no words (SQuAD 2.0)."""
    if not gold:
        return exact_match(predicted, "", language, form)
    return max(score(predicted, answer, language, form) for answer in gold)


@cache
def _known(language: str) -> str | None:
    """The language as MLQA's script calls it."""
    return next((code for code in (*_ARTICLES, _BY_CHARACTER) if same_language(language, code)), None)


def _is_punctuation(character: str) -> bool:
    """Unicode's punctuation, and the ASCII symbols that are not in it ($ + < = > ^ ` | ~)."""
    return unicodedata.category(character).startswith("P") or character in string.punctuation

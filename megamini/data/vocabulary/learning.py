"""New pieces beside old ones (Imamura and Sumita 2022): EM over both, in which the scores of the old ones stay.

The trainer of sentencepiece cannot hold scores fixed, so this is its algorithm again, with the same stages: candidates,
EM, pruning by what each piece is worth. Single characters are never pruned.
"""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import regex
from scipy.special import digamma

from megamini.data.vocabulary.lattices import Lattices
from megamini.errors import UserError

LONGEST = 16  # characters of a piece
_LEARNED_CHARACTERS = 1_500_000  # of the most frequent words; a few minutes of one core
_CUT = 64  # characters; longer words, as scripts without spaces have them, are learned from in parts
_LEAST_COUNT = 2  # of a candidate
_CANDIDATES = 10  # times the pieces wanted
_LEAST_CANDIDATES = 20_000
_KEPT = 0.75  # of the candidates, in each pruning
_ROUNDS = 2  # of EM, before each pruning and at the end
_UNKNOWN = 10.0  # below the lowest score: what a character without a piece costs
_LETTERS = regex.compile(r"▁?[\p{L}\p{M}\u200c\u200d]+")  # a piece of several characters; no digits, no punctuation


Allowed = Callable[[set[str]], set[str]]  # which of some strings may be new pieces


def learn_pieces(
    words: Mapping[str, int], old: Mapping[str, float], count: int, allowed: Allowed, coverage: float, asked: str
) -> list[tuple[str, float]]:
    """`count` new pieces with their scores, the likeliest first; a pure function of its arguments.

    words: of the new text, and how often each occurs. old: pieces that text can be cut into, with their scores.
    allowed: which of some strings may be new pieces. coverage: share of the characters that get a piece. asked: the
    option that wants so many, for messages. Raises UserError where the text does not yield so many, or has more
    characters.
    """
    parts = _parts(words)
    characters = _characters(parts, old, allowed, coverage)
    if len(characters) > count:
        raise UserError(f"{asked} {count}: too few for the text's {len(characters):,} new characters; ask for more")
    candidates = _candidates(parts, old, set(old) | set(characters), allowed, count)
    if len(characters) + len(candidates) < count:
        raise UserError(
            f"{asked} {count}: the text yields no more than {len(characters) + len(candidates):,} new pieces; ask for "
            "fewer, or bring more text"
        )
    return _pruned(parts, old, characters, candidates, count)


def _parts(words: Mapping[str, int]) -> dict[str, int]:
    """The most frequent words, long ones cut up, and how often each occurs."""
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for begin in range(0, len(word), _CUT):
            parts[word[begin : begin + _CUT]] += count
    chosen, left = {}, _LEARNED_CHARACTERS
    for part, count in sorted(parts.items(), key=lambda item: (-item[1], item[0])):
        if (left := left - len(part)) < 0:
            break
        chosen[part] = count
    return chosen


def _characters(
    parts: Mapping[str, int], old: Mapping[str, float], allowed: Allowed, coverage: float
) -> dict[str, int]:
    """The new characters that get a piece, and how often each occurs."""
    counts: Counter[str] = Counter()
    for part, count in parts.items():
        for character in part:
            counts[character] += count
    covered, total, reached = [], sum(counts.values()), 0
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if reached >= coverage * total:
            break
        covered.append(character)
        reached += count
    chosen = allowed({character for character in covered if character not in old})
    return {character: counts[character] for character in covered if character in chosen}


def _candidates(
    parts: Mapping[str, int], old: Mapping[str, float], known: set[str], allowed: Allowed, count: int
) -> dict[str, int]:
    """Strings of several characters, and how often each occurs: the most frequent, long ones first."""
    spelled = {character for piece in known for character in piece}
    places = [(part, begin, times) for part, times in parts.items() for begin in range(len(part))]
    found: dict[str, int] = {}
    for length in range(1, LONGEST + 1):
        counts: Counter[str] = Counter()
        for part, begin, times in places:
            counts[part[begin : begin + length]] += times
        frequent = {piece for piece, times in counts.items() if times >= _LEAST_COUNT}
        found |= {piece: counts[piece] for piece in frequent if length > 1}
        # What is rare is rarer with one more character.
        places = [place for place in places if place[1] + length < len(place[0]) and _cut(place, length) in frequent]
    shaped = {piece for piece in found if _LETTERS.fullmatch(piece) and piece not in old and spelled.issuperset(piece)}
    best = sorted(allowed(shaped), key=lambda piece: (-found[piece] * len(piece), piece))
    return {piece: found[piece] for piece in best[: max(_CANDIDATES * count, _LEAST_CANDIDATES)]}


def _cut(place: tuple[str, int, int], length: int) -> str:
    part, begin, _ = place
    return part[begin : begin + length]


def _pruned(
    parts: Mapping[str, int],
    old: Mapping[str, float],
    characters: Mapping[str, int],
    candidates: Mapping[str, int],
    count: int,
) -> list[tuple[str, float]]:
    """EM and pruning in turn, until so many new pieces are left."""
    new = [*characters, *candidates]
    numbers = {piece: number for number, piece in enumerate([*old, *new])}
    unknown, first = len(numbers), len(old)
    floor = min(old.values())
    counts = np.array([*characters.values(), *candidates.values()], np.float64)
    times = np.array(list(parts.values()), np.float64)
    scores = np.array([*old.values(), *np.log(counts / (counts.sum() + times.sum())), floor - _UNKNOWN])
    alive = np.ones(len(scores), bool)
    lattices = Lattices(list(parts), numbers, unknown)
    alternatives = Lattices(list(candidates), numbers, unknown, whole=False)
    behind = first + len(characters)
    while True:
        for _ in range(_ROUNDS):
            used = lattices.expected_counts(scores, times)
            rates = digamma(np.maximum(used[first:-1], 0.5)) - digamma(used.sum())
            scores[first:-1] = np.where(alive[first:-1], np.maximum(rates, floor), scores[first:-1])
        left = int(alive[first:-1].sum())
        if left <= count:
            break
        # What the text would lose in likelihood, were the piece cut like other text.
        loss = used[behind:-1] * (scores[behind:-1] - alternatives.best(scores))
        kept = max(count, int(_KEPT * left)) - len(characters)
        order = np.lexsort((np.arange(len(loss)), np.where(alive[behind:-1], -loss, np.inf)))
        dropped = np.zeros(len(scores), bool)
        dropped[behind + order[kept:]] = True
        alive &= ~dropped
        lattices.without(dropped)
        alternatives.without(dropped)
    chosen = [number for number in range(len(new)) if alive[first + number]]
    chosen.sort(key=lambda number: (-scores[first + number], new[number]))
    return [(new[number], float(scores[first + number])) for number in chosen]

"""Expected counts and best scores, against every way to cut a word written out."""

import math
from itertools import pairwise, product

import numpy as np
import pytest

from megamini.data.vocabulary.lattices import Lattices

PIECES = ["a", "b", "ab", "ba", "aba", "bab"]
NUMBERS = {piece: number for number, piece in enumerate(PIECES)}
UNKNOWN = len(PIECES)
SCORES = np.array([-1.0, -1.5, -2.0, -2.2, -2.9, -9.0, -12.0])


def ways(word: str) -> list[list[int]]:
    """All ways to cut a word into pieces, as their numbers; a character that is none is the unknown one."""
    found = []
    for cuts in product((False, True), repeat=len(word) - 1):
        bounds = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), len(word)]
        parts = [word[a:b] for a, b in pairwise(bounds)]
        if all(part in NUMBERS or (len(part) == 1 and part not in NUMBERS) for part in parts):
            found.append([NUMBERS.get(part, UNKNOWN) for part in parts])
    return found


def test_expected_counts_and_best_scores_are_those_of_all_ways():
    words, times = ["abab", "b", "bacab", "cc", "a"], np.array([3.0, 1.0, 2.0, 5.0, 7.0])
    expected, best = np.zeros(len(SCORES)), []
    for word, count in zip(words, times, strict=True):
        weights = [math.exp(SCORES[way].sum()) for way in ways(word)]
        best.append(math.log(max(weights)))
        for way, weight in zip(ways(word), weights, strict=True):
            np.add.at(expected, way, count * weight / sum(weights))
    lattices = Lattices(words, NUMBERS, UNKNOWN)
    np.testing.assert_allclose(lattices.expected_counts(SCORES, times), expected, rtol=1e-12)
    np.testing.assert_allclose(lattices.best(SCORES), best, rtol=1e-12)


def test_without_some_pieces_they_are_those_of_the_others():
    dropped = np.zeros(len(SCORES), bool)
    dropped[NUMBERS["ab"]] = dropped[NUMBERS["bab"]] = True
    lattices = Lattices(["abab", "ba"], NUMBERS, UNKNOWN)
    lattices.without(dropped)
    left = {piece: number for piece, number in NUMBERS.items() if not dropped[number]}
    fresh, times = Lattices(["abab", "ba"], left, UNKNOWN), np.array([2.0, 1.0])
    np.testing.assert_array_equal(lattices.expected_counts(SCORES, times), fresh.expected_counts(SCORES, times))


def test_the_best_other_way_to_cut_a_piece():
    lattices = Lattices(["ab", "a", "aba"], NUMBERS, UNKNOWN, whole=False)
    assert lattices.best(SCORES).tolist() == pytest.approx([-2.5, -1.0, -3.0])

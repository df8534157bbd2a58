"""Alignment by IBM model 1 against a reference written out in loops, and the rows that follow from it."""

import random
from collections import defaultdict

import numpy as np
import pytest
import torch

from megamini.adaptation.starting_points import alignment
from megamini.adaptation.starting_points.alignment import align, translation_probabilities
from megamini.adaptation.starting_points.initialise import initialise
from megamini.adaptation.starting_points.parallel_text import read_parallel
from megamini.errors import UserError
from tests.adaptation.starting_points.test_initialise import TARGET_WORDS, ids_of, source, target

__all__ = ["source", "target"]  # fixtures

EMPTY = -1


def reference(pairs, iterations):
    """p(told | given) by the textbook: Brown et al. (1993), equations 4.1 to 4.14, with an empty word."""
    probability = defaultdict(lambda: 1.0)
    for _ in range(iterations):
        expected, total = defaultdict(float), defaultdict(float)
        for given, told in pairs:
            for word in told:
                all_of_them = sum(probability[word, other] for other in [*given, EMPTY])
                for other in [*given, EMPTY]:
                    share = probability[word, other] / all_of_them
                    expected[word, other] += share
                    total[other] += share
        probability = {(word, other): count / total[other] for (word, other), count in expected.items()}
    return probability


def drawn_pairs(seed=0, count=40):
    draw = random.Random(seed)
    lengths = [(draw.randint(1, 5), draw.randint(1, 6)) for _ in range(count)]
    return [(draw.choices(range(7), k=ours), draw.choices(range(9), k=theirs)) for ours, theirs in lengths]


def test_probabilities_are_those_of_the_reference():
    pairs = drawn_pairs()
    found = translation_probabilities(pairs, 7, 9).toarray()
    wanted = reference(pairs, alignment.ITERATIONS)
    assert found.shape == (7, 9)
    for (told, given), probability in wanted.items():
        if given != EMPTY:
            assert found[given, told] == pytest.approx(probability, rel=1e-9)
    assert np.count_nonzero(found) == sum(given != EMPTY for _, given in wanted)


def test_the_textbooks_example_is_learned():
    """das Haus, das Buch, ein Buch: the, house, book, a."""
    das, haus, buch, ein = range(4)
    the, house, book, a = range(4)
    found = align([([das, haus], [the, house]), ([das, buch], [the, book]), ([ein, buch], [a, book])], 5, 4)
    assert found.shares.toarray()[:4].argmax(1).tolist() == [the, house, book, a]
    assert found.shares.sum(1)[:4] == pytest.approx(1) and found.shares.sum(1)[4] == found.agreement[4] == 0
    assert (found.agreement <= 1 + 1e-12).all() and found.agreement[das] > found.agreement[haus]


def test_agreement_is_the_chance_of_coming_back():
    pairs = drawn_pairs(3)
    found = align(pairs, 7, 9)
    forth = translation_probabilities(pairs, 7, 9).toarray()
    back = translation_probabilities([(told, given) for given, told in pairs], 9, 7).toarray()
    assert found.agreement == pytest.approx((forth * back.T).sum(1))
    assert found.shares.toarray() == pytest.approx(forth * back.T / (forth * back.T).sum(1, keepdims=True))


def test_more_pairs_than_memory_allows_are_thinned_out_evenly(monkeypatch):
    monkeypatch.setattr(alignment, "MOST_LINKS", 12)
    pairs = [([n], [n, n]) for n in range(12)]
    assert alignment._within(pairs, 12) == pairs[::2]
    assert align([([], [1]), ([1], [])], 3, 3).agreement.tolist() == [0, 0, 0]


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def parallel(tmp_path):
    """German pieces beside their English ones, in sentences."""
    pairs = {"Haus": "house", "Baum": "tree", "rot": "red", "grün": "green", "groß": "big", "Wasser": "water"}
    draw, files = random.Random(1), (tmp_path / "de.txt", tmp_path / "en.txt")
    chosen = [draw.sample(sorted(pairs), 3) for _ in range(80)]
    files[0].write_text("".join(" ".join(words) + "\n" for words in chosen), encoding="utf-8")
    files[1].write_text("".join(" ".join(pairs[w] for w in reversed(words)) + "\n" for words in chosen))
    return pairs, tuple(map(str, files))


def test_aligned_pieces_start_where_their_translations_are(source, target, parallel):
    pairs, files = parallel
    start = initialise("focus", source, target, 0, parallel=read_parallel(files))
    for german, english in pairs.items():
        (own,), (other,) = ids_of(target.tokenizer, f"▁{german}"), ids_of(source.tokenizer, f"▁{english}")
        torch.testing.assert_close(start.matrix[own], source.matrix[other], rtol=0, atol=0.05)
    assert start.facts["aligned_pieces"] == len(pairs) and start.facts["through"] == "scikit-learn"
    assert start.facts["parallel_lines"] == 80
    again = initialise("focus", source, target, 0, parallel=read_parallel(files))
    assert torch.equal(start.matrix, again.matrix)
    plain = initialise("focus", source, target, 0, focus_through="scikit-learn")
    (new,) = ids_of(target.tokenizer, "▁tür")  # not in the parallel text: mixed, now from aligned pieces as well
    assert "tür" in TARGET_WORDS and not torch.equal(start.matrix[new], plain.matrix[new])


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (b"a\nb\n", b"a\n", r"en.txt: ends before line 2, but the other file goes on"),
        (b"a\n", b"a\nb\nc\n", r"de.txt: ends before line 2"),
        (b"a\n\n", b"\nb\n", r"no line has text in both files"),
        (b"", b"", r"no line has text in both files"),
        (b"a\n\xff\n", b"a\nb\n", r"de.txt: line 2: not valid UTF-8"),
        (None, b"a\n", r"de.txt: No such file"),
    ],
)
def test_what_is_not_parallel_ends_in_one_line(ours, theirs, message, tmp_path):
    for name, content in (("de.txt", ours), ("en.txt", theirs)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_parallel((str(tmp_path / "de.txt"), str(tmp_path / "en.txt")))
    assert "\n" not in str(error.value)


def test_parallel_text_is_read_whole(tmp_path):
    (tmp_path / "de.txt").write_bytes("\ufeffein  Haus\r\n\nzwei\n".encode())
    (tmp_path / "en.txt").write_bytes(b"a house\nmissing\ntwo")
    read = read_parallel((str(tmp_path / "de.txt"), str(tmp_path / "en.txt")))
    assert read == [("ein Haus", "a house"), ("zwei", "two")]


@pytest.mark.parametrize("kind", ["overlap", "subword"])
def test_starts_that_take_no_parallel_text_say_so(kind, source, target):
    with pytest.raises(UserError, match="takes no parallel text"):
        initialise(kind, source, target, 0, parallel=[("Haus", "house")])

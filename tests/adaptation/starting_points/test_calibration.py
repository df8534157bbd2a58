"""Mixed rows calibrated to the source's, by hand and as starting points use it."""

import numpy as np
import pytest
import torch

from megamini.adaptation.starting_points import static_vectors
from megamini.adaptation.starting_points.calibration import calibrated
from megamini.adaptation.starting_points.initialise import initialise
from megamini.adaptation.starting_points.subword import script_of
from megamini.adaptation.starting_points.vocabularies import Target
from tests.adaptation.starting_points.test_initialise import (
    WIDTH,
    begin,
    ids_of,
    make_tokenizer,
    source,
    target,
    word_list,
)

__all__ = ["source", "target", "word_list"]  # fixtures


def distances(rows):
    return np.linalg.norm(rows - rows.mean(0), axis=1)


def test_each_row_is_moved_away_from_the_rows_mean():
    rows = np.array([[5.0, 1.5], [5.0, 2.5], [4.0, 2.0], [6.0, 2.0]])  # 0.5 or 1 from (5, 2)
    reference = np.array([[10.0, 0.0], [10.0, 6.0]])  # each 3 from their mean
    assert calibrated(rows, reference) == pytest.approx(np.array([[5.0, -1], [5, 5], [2, 2], [8, 2]]))


@pytest.mark.parametrize("rows", [np.zeros((0, 2)), np.ones((1, 2)), np.ones((3, 2))])
def test_rows_that_do_not_differ_stay(rows):
    assert np.array_equal(calibrated(rows, np.array([[0.0, 0], [9, 9]])), rows)


@pytest.mark.parametrize("kind", ["subword", "focus"])
def test_a_starting_point_has_its_mixed_rows_calibrated_and_no_others(kind, source, target, word_list):
    target = spelled_target() if kind == "subword" else target
    plain, spread = (begin(kind, source, target, word_list, calibrate=calibrate) for calibrate in (False, True))
    assert spread.facts["calibrated"] and not plain.facts["calibrated"]
    moved = (plain.matrix != spread.matrix).any(1).numpy()
    assert moved.sum() == plain.facts["mixed_pieces" if kind == "focus" else "composed_pieces"] > 2
    before, after = (start.matrix.double().numpy()[moved] for start in (plain, spread))
    from_mean = np.linalg.norm(after - before.mean(0), axis=1)
    assert from_mean == pytest.approx(distances(source.matrix.double().numpy()[5:]).mean(), rel=1e-5)


def test_translations_of_one_piece_are_copies_and_stay(source, target, tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("Haus\thouse\nrot\tred\nrot\tgreen\ntür\twooddoor\n", encoding="utf-8")
    start = initialise("lexicon", source, target, 0, lexicon=path, calibrate=True)
    (house,), (own,) = ids_of(source.tokenizer, "▁house"), ids_of(target.tokenizer, "▁Haus")
    assert torch.equal(start.matrix[own], source.matrix[house])
    mixed = start.matrix[ids_of(target.tokenizer, "▁rot", "▁tür")].double().numpy()
    assert distances(mixed) == pytest.approx(distances(source.matrix.double().numpy()[5:]).mean(), rel=1e-4)


# --- subword --------------------------------------------------------------------------------------------------------


def spelled_target():
    """Of words that the source can spell, but for Cyrillic ones, and a letter, which it knows by their bytes alone."""
    tokenizer = make_tokenizer(["housedoor", "red", "мир", "gifté"], ["mask", "unk", "bos", "eos", "pad"], ["wooddoor"])
    return Target(tokenizer, np.ones(len(tokenizer), np.int64))


def test_subword_by_hand(source):
    """`house` begins a word, `door` and `wood` stand inside one."""
    target = spelled_target()
    tokenizer = target.tokenizer
    start, plain = (initialise(kind, source, target, 0) for kind in ("subword", "overlap"))
    of = {piece: source.matrix[number] for piece, number in source.tokenizer.get_vocab().items()}
    got = {piece: start.matrix[number] for piece, number in tokenizer.get_vocab().items()}
    torch.testing.assert_close(got["▁housedoor"], (of["▁house"] + of["door"]) / 2)
    torch.testing.assert_close(got["wooddoor"], (of["wood"] + of["door"]) / 2)
    torch.testing.assert_close(got["▁gifté"], of["▁gift"])  # what is left to bytes says nothing
    assert torch.equal(got["▁red"], of["▁red"])
    (strange,) = ids_of(tokenizer, "▁мир")
    assert torch.equal(start.matrix[strange], plain.matrix[strange])
    assert start.facts["composed_pieces"] == 3 and start.facts["spelled_by_bytes"] == {"cyrillic": 1.0}
    assert start.matrix.shape == (len(tokenizer), WIDTH)


def test_a_combined_row_is_focus_with_a_share_of_subword(source):
    """Without calibration exactly; pieces that only one of the two knows are that one's."""
    tokenizer = make_tokenizer(["housedoor", "red", "tür", "a", "in"], ["mask", "unk", "bos", "eos", "pad"])
    draw = np.random.default_rng(0)
    documents = [
        np.array(ids_of(tokenizer, "▁housedoor", "▁red", "▁tür", "▁a"))[draw.permutation(4)] for _ in range(40)
    ]
    counts = np.bincount(np.concatenate(documents), minlength=len(tokenizer))
    target = Target(tokenizer, counts, lambda: documents)
    options = {"focus_through": "scikit-learn"}
    focus, combined = (initialise(kind, source, target, 0, **options).matrix for kind in ("focus", "combined"))
    subword = initialise("subword", source, target, 0).matrix
    (both,), (only_focus,) = ids_of(tokenizer, "▁housedoor"), ids_of(tokenizer, "▁tür")
    torch.testing.assert_close(combined[both], 0.8 * focus[both] + 0.2 * subword[both])
    assert not torch.equal(focus[both], subword[both])
    assert torch.equal(combined[only_focus], focus[only_focus])
    spread = initialise("combined", source, target, 0, calibrate=True, **options)
    assert spread.facts["calibrated"] and not torch.equal(spread.matrix, combined)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Haus", "latin"),
        ("мир", "cyrillic"),
        ("λόγος2", "greek"),
        ("你好", "cjk"),
        ("12.", "other"),
        ("ab мир", "cyrillic"),
    ],
)
def test_scripts_are_named_as_in_unicode(text, script):
    assert script_of(text) == script


# --- text -----------------------------------------------------------------------------------------------------------


def test_every_backend_reads_so_much_text_and_no_more(monkeypatch):
    monkeypatch.setattr(static_vectors, "MOST_TOKENS", 7)
    documents = [np.array([[1, 2], [3, 4]]), np.array([5, 6, 7]), np.array([8])]
    assert [list(document) for document in static_vectors.first_tokens(documents)] == [[1, 2, 3, 4], [5, 6, 7]]

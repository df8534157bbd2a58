"""Replaced pieces: the rarest on old text give their ids, and nothing else changes place."""

import numpy as np
import pytest

from megamini.data.preparation.prepare import Settings, prepare
from megamini.data.tokenizer import load_tokenizer, special_roles
from megamini.data.vocabulary.replacement import replace_least_used
from megamini.data.vocabulary.unigram import spelled_pieces
from megamini.data.vocabulary.words import count_words, fertility
from megamini.errors import UserError
from tests.data.texts import write_text
from tests.data.vocabulary.languages import ENGLISH, RUSSIAN, english_tokenizer, ids, vocabulary_of, without_bytes


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    return english_tokenizer(tmp_path_factory.mktemp("english"))


@pytest.fixture(scope="module")
def mixed(english):
    return replace_least_used(
        english, count_words([RUSSIAN], english), count_words([ENGLISH], english), 60, 1.0, "--tokenizer x"
    )


def test_the_rarest_pieces_give_their_ids(english, mixed):
    tokenizer, facts = mixed
    before, after = vocabulary_of(english), vocabulary_of(tokenizer)
    own = [number for number, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
    assert len(own) == 60 == facts["replaced_pieces"] and len(tokenizer) == len(english)
    used = np.bincount(ids(english, ENGLISH), minlength=len(english))
    replaceable = {number for piece, number in english.get_vocab().items() if len(piece) > 1} & {
        english.get_vocab()[piece] for piece in spelled_pieces(english)
    }
    assert used[own].max() <= min(used[list(replaceable - set(own))])
    assert facts["share_of_old_tokens"] == pytest.approx(used[own].sum() / used.sum())
    assert special_roles(tokenizer) == special_roles(english)


def test_all_text_can_still_be_read(english, mixed):
    tokenizer = mixed[0]
    for text in (ENGLISH, RUSSIAN, "昨天 🦤 ½"):
        assert tokenizer.decode(ids(tokenizer, text)) == english.decode(ids(english, text))
    assert {piece for piece in spelled_pieces(english) if len(piece) == 1} <= set(spelled_pieces(tokenizer))


def test_new_text_becomes_fewer_tokens_and_the_facts_say_so(english, mixed):
    tokenizer, facts = mixed
    russian, old = count_words([RUSSIAN], english), count_words([ENGLISH], english)
    assert facts["fertility"] == {"old": fertility(russian, english), "mixed": fertility(russian, tokenizer)}
    assert facts["fertility"]["mixed"] < 0.5 * facts["fertility"]["old"]
    assert facts["fertility_of_old_text"] == {"old": fertility(old, english), "mixed": fertility(old, tokenizer)}


def test_a_rare_piece_that_new_text_wants_keeps_its_id():
    pieces = {"▁": -1.0, **dict.fromkeys("abcdef", -3.0), "▁ab": -4.0, "▁cd": -4.1, "▁ef": -4.2, "▁ef▁": -4.3}
    old = without_bytes(pieces)
    tokenizer, _ = replace_least_used(old, {"▁cd": 50, "▁fa": 40}, {"▁ab": 9, "▁ef": 5}, 2, 1.0, "x")
    assert old.get_vocab()["▁cd"] == tokenizer.get_vocab()["▁cd"]
    assert "▁fa" in tokenizer.get_vocab() and "▁ef▁" not in tokenizer.get_vocab()


def test_too_many_are_one_line(english):
    words = count_words([RUSSIAN], english)
    with pytest.raises(
        UserError, match=r"--replace-least-used 590: more than half of the \d+ pieces that can be replaced"
    ):
        replace_least_used(english, words, words, 590, 1.0, "--tokenizer x")


def test_a_data_directory_and_its_table_of_fertility(tmp_path, english):
    english.save_pretrained(tmp_path / "english")
    old = write_text(tmp_path / "old.txt", [ENGLISH])
    text = write_text(tmp_path / "ru.txt", [f"{n} {RUSSIAN}" for n in range(40)])
    how = {"tokenizer": str(tmp_path / "english"), "replace_least_used": 60, "old_text": [str(old)]}
    settings = Settings("ru", block_length=32, validation_share=0.2, **how)
    facts = prepare([str(text)], tmp_path / "data", settings, processes=1)["vocabulary"]
    assert facts["kind"] == "replacement" and len(load_tokenizer(tmp_path / "data")) == len(english)
    for row, better, worse in (("fertility", "new", "old"), ("fertility_of_old_text", "old", "new")):
        assert set(facts[row]) == {"old", "new", "mixed"}
        assert facts[row][better] < facts[row][worse]

"""Extended tokenizers: old text is cut as before, token by token, and new text into fewer pieces."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from megamini.data.tokenizer import save_tokenizer, special_roles
from megamini.data.vocabulary.extension import added_pieces, extend
from megamini.data.vocabulary.unigram import spelled_pieces, with_pieces
from megamini.data.vocabulary.words import count_words, fertility
from megamini.errors import UserError
from tests.data.vocabulary.languages import (
    CHINESE,
    ENGLISH,
    GERMAN,
    RUSSIAN,
    english_tokenizer,
    ids,
    vocabulary_of,
    without_bytes,
)


def extended(tokenizer, text, add=60, old_text=None):
    old_words = None if old_text is None else count_words([old_text], tokenizer)
    return extend(tokenizer, count_words([text], tokenizer), old_words, add, 1.0, "--extend-tokenizer x")


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    return english_tokenizer(tmp_path_factory.mktemp("english"))


@pytest.fixture(scope="module")
def with_russian(english):
    return extended(english, RUSSIAN)[0]


@pytest.fixture(scope="module")
def with_german(english):
    return extended(english, GERMAN, old_text=ENGLISH)[0]


# --- old text ---------------------------------------------------------------------------------------------------------


def test_a_whole_corpus_is_cut_as_before(english, with_russian, with_german):
    for new in (with_russian, with_german):
        assert ids(new, ENGLISH) == ids(english, ENGLISH)
        assert [ids(new, line) for line in ENGLISH.splitlines()] == [ids(english, one) for one in ENGLISH.splitlines()]


OTHER_SCRIPTS = [CHINESE, "ᚠᛇᚻ ꙮ 🦤", "नमस्\u200dते می\u200cخواهم", "<s> <mask> </s> <0xE4>", "a\u0301 ﬁ ½", "Ελληνικά"]


def test_text_of_other_scripts_is_cut_as_before(english, with_russian, with_german):
    for text in OTHER_SCRIPTS:
        assert ids(with_russian, text) == ids(with_german, text) == ids(english, text), text


@settings(max_examples=300, deadline=None)
@given(data=some.data())
def test_whatever_old_characters_spell_is_cut_as_before(english, with_russian, data):
    alphabet = sorted({character for piece in spelled_pieces(english) for character in piece} - {"▁"} | {" "})
    text = data.draw(some.text(some.sampled_from(alphabet)))
    assert ids(with_russian, text) == ids(english, text)


@settings(max_examples=300, deadline=None)
@given(data=some.data())
def test_whatever_words_of_the_old_text_are_put_together_is_cut_as_before(english, with_german, data):
    text = " ".join(data.draw(some.lists(some.sampled_from(sorted(set(ENGLISH.split()))))))
    assert ids(with_german, text) == ids(english, text)


def test_mixed_text_is_old_text_and_new_text(english, with_russian):
    mixed = "The library Библиотека is open открыта"
    assert ids(with_russian, mixed) == [
        number for word in mixed.split() for number in ids(english if word.isascii() else with_russian, word)
    ]


def test_two_extensions_together_leave_old_text_alone(english, with_russian, with_german):
    both = with_pieces(with_russian, added_pieces(with_german, english))
    assert ids(both, ENGLISH) == ids(english, ENGLISH)
    assert len(both) == len(english) + 120


def test_an_unknown_character_costs_what_it_did():
    """Its price is the lowest score less 10: a new piece with a lower score would change what old text is cut into."""
    pieces = {"▁": -2.0, "a": -3.0, "b": -3.0, "x": -4.0, "▁a": -4.5, "qx": -4.9, "▁ab": -5.0}
    old = without_bytes(pieces)
    text = "ab abab axb aqxb qab q ббв " + "да нет " * 100_000
    new, _ = extended(old, "да нет " * 100_000 + "бвгд бвгд", add=9)
    assert min(score for _, score in vocabulary_of(new)) == -5.0
    for word in text.split()[:6]:
        assert ids(new, word) == ids(old, word), word


# --- new text ---------------------------------------------------------------------------------------------------------


def test_old_pieces_keep_ids_and_scores_and_new_ones_follow(english, with_russian, with_german):
    for new in (with_russian, with_german):
        assert len(new) == len(english) + 60
        assert vocabulary_of(new)[: len(english)] == vocabulary_of(english)
        assert special_roles(new) == special_roles(english)
        assert new("a <mask> b")["input_ids"] == english("a <mask> b")["input_ids"]


def test_every_new_character_has_a_piece(english, with_russian):
    added = {piece for piece, _ in added_pieces(with_russian, english)}
    assert {character for character in RUSSIAN if character.isalpha()} <= added


def test_new_text_becomes_fewer_tokens(english, with_russian, with_german):
    for new, text, most in ((with_russian, RUSSIAN, 0.5), (with_german, GERMAN, 0.8)):
        words = count_words([text], english)
        assert fertility(words, new) < most * fertility(words, english)
        assert new.decode(ids(new, text)) == " ".join(text.split())


def test_it_is_the_same_each_time_and_saves(tmp_path, english, with_german):
    assert extended(english, GERMAN, old_text=ENGLISH)[0].backend_tokenizer.to_str() == (
        with_german.backend_tokenizer.to_str()
    )
    save_tokenizer(with_german, tmp_path / "saved", [GERMAN, ENGLISH])
    assert added_pieces(AutoTokenizer.from_pretrained(tmp_path / "saved"), english) == added_pieces(
        with_german, english
    )


def test_what_the_manifest_says(english):
    words = count_words([GERMAN], english)
    new, facts = extended(english, GERMAN, old_text=ENGLISH)
    assert facts["fertility"] == {"old": fertility(words, english), "extended": fertility(words, new)}
    assert facts["old_pieces"] == 600 and facts["added_pieces"] == 60 and facts["kept"] == "words"
    assert set(facts["fertility_of_old_text"].values()) == {fertility(count_words([ENGLISH], english), english)}
    assert extended(english, RUSSIAN)[1]["kept"] == "alphabet"


def test_another_tokenizer_is_no_extension(english, with_russian, with_german):
    assert added_pieces(with_russian, with_german) is None and added_pieces(english, english) is None
    assert added_pieces(without_bytes({"▁": -1.0}), english) is None


def test_an_extension_can_be_extended(english, with_russian):
    chinese, _ = extended(with_russian, CHINESE, add=40)
    assert ids(chinese, ENGLISH) == ids(english, ENGLISH) and ids(chinese, RUSSIAN) == ids(with_russian, RUSSIAN)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_extended_is_one_line(english):
    wordpiece = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1})))
    bpe = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    behind = without_bytes({"▁": -1.0, "a": -2.0})
    behind.add_tokens(["extra"])
    for tokenizer, said in (
        (wordpiece, "a WordPiece tokenizer; only a Unigram one"),
        (bpe, "a BPE tokenizer; only a Unigram one"),
        (without_bytes({"▁": -1.0, "a": -2.0}, split=False), "does not cut text at spaces"),
        (behind, "1 added tokens behind its vocabulary"),
    ):
        with pytest.raises(UserError, match=f"--extend-tokenizer x: .*{said}"):
            extend(tokenizer, {"▁a": 1}, None, 2, 1.0, "--extend-tokenizer x")


@pytest.mark.parametrize(
    ("add", "text", "said"),
    [
        (5, RUSSIAN, r"--add 5: too few for the text's \d+ new characters; ask for more"),
        (90_000, RUSSIAN, r"--add 90000: the text yields no more than [\d,]+ new pieces; ask for fewer"),
        (60, ENGLISH, r"--add 60: the text yields no more than 0 new pieces.*with --old-text only the words of that"),
    ],
)
def test_too_many_and_too_few_are_one_line(english, add, text, said):
    with pytest.raises(UserError, match=said):
        extended(english, text, add)


def test_a_foreign_normalizer_and_pre_tokenizer_are_gone_by():
    """Words are what normalizer and pre-tokenizer make of text, whichever they are."""
    tokenizer = without_bytes({"▁": -1.0, "a": -2.0, "b": -2.0, "▁ab": -2.5})
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["normalizer"] = {"type": "Lowercase"}
    mark = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    backend["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, mark]}
    lower = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), unk_token="<unk>")
    assert count_words(["AB ab\nBA"], lower) == {"▁ab": 2, "▁ba": 1}
    new, _ = extended(lower, "CAB CAB CAB CAB DAB DAB DAB DAB", add=3, old_text="AB BA")
    assert ids(new, "AB BA ab") == ids(lower, "AB BA ab")
    assert len(ids(new, "CAB dab")) < len(ids(lower, "CAB dab"))

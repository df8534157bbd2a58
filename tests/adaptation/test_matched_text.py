"""Texts beside what says the same in another vocabulary: which places of both belong together, on hand cases."""

import pytest

from megamini.adaptation.matched_text import MatchedText, Vocabulary, spelled_twice, told_by_list, translated
from megamini.adaptation.starting_points.lexicon import commonest_translations
from megamini.adaptation.starting_points.piece_forms import piece_forms
from megamini.languages.words import Segment, WordList
from tests.adaptation.starting_points.test_initialise import make_tokenizer

ROLES = ["bos", "pad", "eos", "unk", "mask"]


def vocabulary(words, parts=(), longest=64):
    tokenizer = make_tokenizer(words, ROLES, parts)
    return Vocabulary(tokenizer, piece_forms(tokenizer), longest)


@pytest.fixture(scope="module")
def ours():
    return vocabulary(["Haus", "Haustür", "rot", "ist", "der"], ["tür", "e", "."])


@pytest.fixture(scope="module")
def theirs():
    return vocabulary(["house", "red", "is", "the", "H", "ro"], ["aus", "t", "r", "door", "."])


def spans(text: MatchedText, ours: Vocabulary, theirs: Vocabulary):
    """Pieces, one space between them, that belong together."""

    def pieces(side, ids, places):
        return " ".join(side.tokenizer.convert_ids_to_tokens([ids[place] for place in places]))

    return [(pieces(ours, text.ours, a), pieces(theirs, text.theirs, b)) for a, b in text.spans]


def test_a_text_is_cut_where_both_cut_it(ours, theirs):
    (text,) = spelled_twice(["Haus rot."], ours, theirs)
    assert spans(text, ours, theirs) == [("▁Haus", "▁H aus"), ("▁rot", "▁ro t"), (".", ".")]


def test_what_the_source_spells_by_bytes_is_left_out(ours, theirs):
    (text,) = spelled_twice(["Haus Haustür rot"], ours, theirs)
    assert spans(text, ours, theirs) == [("▁Haus", "▁H aus"), ("▁rot", "▁ro t")]  # ü
    assert spelled_twice(["дом"], ours, theirs) == []


def test_words_of_a_list_stand_for_their_translations(ours, theirs):
    words = WordList({"Haus": "house", "Haustür": "house door", "ist": "is"})
    (text,) = told_by_list(["der Haustür ist rot", "rot"], words, ours, theirs)  # the second has no word of the list
    assert spans(text, ours, theirs) == [("▁Haustür", "▁house door"), ("▁ist", "▁is")]
    assert theirs.tokenizer.decode(text.theirs) == "der house door is rot"


def test_lines_and_their_aligned_pieces_belong_together(ours, theirs):
    pairs = [("Haus ist rot", "red is house"), ("Haus", "house"), ("rot", "red"), ("ist rot", "red is")] * 3
    (first, *_) = translated(pairs, ours, theirs)
    assert spans(first, ours, theirs) == [
        ("▁Haus ▁ist ▁rot", "▁red ▁is ▁house"), ("▁Haus", "▁house"), ("▁ist", "▁is"), ("▁rot", "▁red"),
    ]  # fmt: skip


def test_what_was_cut_off_belongs_to_nothing(ours):
    short = vocabulary(["house", "red"], longest=2)
    words = WordList({"Haus": "house", "rot": "red"})
    (text,) = told_by_list(["Haus rot rot Haus"], words, ours, short)
    assert spans(text, ours, short) == [("▁Haus", "▁house"), ("▁rot", "▁red")]


def test_segments_make_up_the_text():
    words = WordList({"Haus": "house", "ist": "is"})
    assert list(words.segments("Das Haus ist rot")) == [
        Segment("Das", "Das", False), Segment(" ", " ", False), Segment("Haus", "house", True),
        Segment(" ", " ", False), Segment("ist", "is", True), Segment(" ", " ", False), Segment("rot", "rot", False),
    ]  # fmt: skip
    thai = WordList({"สวัสดี": "hello", "ชาวโลก": "world"})
    assert [segment.told for segment in thai.segments("สวัสดีชาวโลก")] == ["hello", " world"]
    assert thai.text("สวัสดีชาวโลก") == "hello world"


def test_the_commonest_translation_of_the_fewest_pieces(theirs):
    lexicon = {"Haus": ["red house", "the", "house"], "Tür": ["house red", "red house"], "x": [" "], "y": []}
    found = commonest_translations(lexicon, theirs.tokenizer, theirs.forms)
    assert found == {"Haus": "house", "Tür": "house red"}

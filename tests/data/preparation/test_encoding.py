"""Texts -> token ids, fast: the same ids as the tokenizer gives."""

import random
import sys
import unicodedata

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from megamini.data.preparation import encoding
from megamini.data.preparation.encoding import TextEncoder, WordEncoder
from megamini.data.tokenizer import encoder, is_word_by_word, train_unigram
from tests.data.test_tokenizer import byte_level
from tests.data.texts import documents

TEXTS = documents(150)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_unigram(TEXTS, 520, 0.9998, tmp_path_factory.mktemp("tokenizer") / "sample.txt")


def strange_texts(count):
    """Random characters of all of Unicode, with many spaces, marks and joiners between them."""
    draw = random.Random(0)
    characters = [
        chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cs", "Cn")
    ]
    between = [c for c in characters if c.isspace() or unicodedata.category(c) in ("Cc", "Cf")] + list(
        "\u0301\u0327\u20dd\u0338 a´ﷺ"
    )
    return [
        "".join(draw.choice(between if draw.random() < 0.6 else characters) for _ in range(40)) for _ in range(count)
    ]


def assert_same(tokenizer, texts):
    backend = encoder(tokenizer)
    for start in range(0, len(texts), 50):
        some = texts[start : start + 50]
        for mine, theirs in zip(WordEncoder(backend).encode(some), TextEncoder(backend).encode(some), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_word_by_word_gives_the_ids_of_the_whole(tokenizer):
    assert is_word_by_word(tokenizer)
    assert_same(tokenizer, [*TEXTS, "", " ", "a <s> <mask> </s>", "\n\n one  two\t"])
    assert_same(tokenizer, strange_texts(3_000))


def test_words_are_remembered_and_forgotten(tokenizer, monkeypatch):
    backend = encoder(tokenizer)
    words, whole = WordEncoder(backend), TextEncoder(backend)
    monkeypatch.setattr(encoding, "CACHED_WORDS", 40)
    sizes = []
    for text in TEXTS:
        np.testing.assert_array_equal(words.encode([text, text])[1], whole.encode([text])[0])
        sizes.append(len(words._numbers))
    assert max(sizes) > 40 and min(sizes[5:]) < 40


def test_only_tokenizers_that_cut_at_white_space_are_taken_word_by_word(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert is_word_by_word(AutoTokenizer.from_pretrained(tmp_path))
    assert not is_word_by_word(PreTrainedTokenizerFast(tokenizer_object=byte_level()))

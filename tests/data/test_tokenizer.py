"""Tokenizers: trained, loaded, and facts about their vocabulary."""

import json
import unicodedata
import warnings

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from megamini.data.tokenizer import (
    _as_fast_tokenizer,
    _train_sentencepiece,
    encoder,
    fingerprint,
    load_tokenizer,
    normalizer,
    piece_bytes,
    save_tokenizer,
    special_ids,
    special_roles,
    train_unigram,
)
from megamini.errors import UserError
from tests.data.texts import SENTENCES, documents

TEXTS = documents(150)


def train(folder, vocab_size=520, coverage=0.9998):
    return train_unigram(TEXTS, vocab_size, coverage, folder / "sample.txt")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train(tmp_path_factory.mktemp("tokenizer"))


def plain(text):
    return " ".join(unicodedata.normalize("NFKC", text).split())


def test_special_pieces_have_the_ids_of_roberta(tokenizer):
    assert len(tokenizer) == 520
    assert special_roles(tokenizer) == {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4}
    assert special_ids(tokenizer).tolist() == [0, 1, 2, 3, 4]
    assert tokenizer("a")["input_ids"][0] == 0 and tokenizer("a")["input_ids"][-1] == 2
    pair = tokenizer("The mill", "the bells")["input_ids"]
    assert pair[0] == 0 and pair.count(2) == 3 and pair[-1] == 2
    assert tokenizer.decode(tokenizer("The <mask> turned")["input_ids"]) == "<s> The<mask> turned</s>"


def test_training_gives_the_same_tokenizer_each_time(tmp_path, tokenizer):
    for _ in range(2):
        assert train(tmp_path).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_no_character_is_lost(tokenizer):
    strange = ["ᚠᛇᚻ ꙮ 🦤", "zero\u200djoiner नमस्\u200dते می\u200cخواهم", "a" * 5_000, "\u0301alone", "x\ufffdy"]
    for text in [*TEXTS, *strange]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert 3 not in ids
        assert tokenizer.decode(ids) == plain(text)


def test_white_space_and_control_characters_become_one_space(tokenizer):
    expected = tokenizer("one two")["input_ids"]
    for text in (
        "one\ntwo",
        " one \t\r\n two\n",
        "one\u00a0two",
        "one\u3000two",
        "one\x00\x07two",
        "one▁two",
        "one\ufefftwo",
    ):
        assert tokenizer(text)["input_ids"] == expected, text
    assert tokenizer(" \n", add_special_tokens=False)["input_ids"] == []


def test_ids_agree_with_sentencepiece(tmp_path):
    normalize = normalizer().normalize_str
    (tmp_path / "sample.txt").write_text("\n".join(normalize(text) for text in TEXTS))
    model = _train_sentencepiece(tmp_path / "sample.txt", 520, 0.9998)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = encoder(_as_fast_tokenizer(model))
    fresh = documents(300, seed=1)
    same = sum(ours.encode(text, add_special_tokens=False).ids == theirs.encode(normalize(text)) for text in fresh)
    assert same >= 0.99 * len(fresh)


def test_text_cannot_spell_a_special_or_byte_piece(tokenizer):
    text = "a <s> b </s> <pad> <unk> <mask> <0xE4> c"
    ids = encoder(tokenizer).encode(text, add_special_tokens=False).ids
    assert not set(ids) & {0, 1, 2, 3, 4}
    assert tokenizer.decode(ids) == text


def test_saved_and_loaded_ids_are_equal(tmp_path, tokenizer):
    save_tokenizer(tokenizer, tmp_path / "saved", TEXTS)
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer_config.json").exists()
    assert [again(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert fingerprint(again) == fingerprint(tokenizer)
    assert special_roles(load_tokenizer(tmp_path / "saved")) == special_roles(tokenizer)


def test_nothing_is_truncated_and_nothing_warns(tokenizer, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(tokenizer("the river " * 5_000)["input_ids"]) >= 10_000
    assert caplog.text == ""


def test_fingerprints_differ_when_tokenizers_do(tmp_path, tokenizer):
    assert fingerprint(train(tmp_path, vocab_size=515)) != fingerprint(tokenizer)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"][400][1] -= 1.0
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))
    assert fingerprint(other) != fingerprint(tokenizer)


def test_vocabulary_advice_is_true(tmp_path):
    with pytest.raises(UserError, match="--vocab-size 50000: the text yields no more than") as caught:
        train(tmp_path, 50_000)
    largest = int(str(caught.value).split("no more than ")[1].split()[0])
    assert len(train(tmp_path, largest)) == largest
    with pytest.raises(UserError, match=f"no more than {largest} pieces"):
        train(tmp_path, largest + 1)
    with pytest.raises(UserError, match="--vocab-size 300: too few"):
        train(tmp_path, 300)


def test_piece_bytes_add_up_to_the_text(tokenizer):
    sizes = piece_bytes(tokenizer)
    assert sizes.shape == (520,) and sizes.dtype == np.int32
    assert (sizes[:5] == 0).all() and (sizes[5:] > 0).all()
    assert (sizes[5:261] == 1).all()
    for text in [*TEXTS, "ᚠᛇᚻ"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert sizes[ids].sum() == len(plain(text).encode()) + 1  # the space in front of the first word


def byte_level():
    """A byte-level BPE tokenizer of single bytes and a few merges."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    pieces = [*specials, *alphabet, *("".join(pair) for pair in merges)]
    bpe = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return bpe


def test_piece_bytes_of_byte_level_and_word_pieces():
    roles = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    bpe = PreTrainedTokenizerFast(tokenizer_object=byte_level(), **roles)
    for text in SENTENCES:
        assert piece_bytes(bpe)[bpe(text, add_special_tokens=False)["input_ids"]].sum() == len(text.encode())
    vocabulary = {"[UNK]": 0, "müh": 1, "##le": 2, "[MASK]": 3}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    words = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]", mask_token="[MASK]")
    assert piece_bytes(words).tolist() == [0, 5, 2, 0]


def test_tokenizers_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "tokenizer.json").write_text('{"version"')
    (tmp_path / "torn" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="torn"):
        load_tokenizer(tmp_path / "torn")
    PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>").save_pretrained(
        tmp_path / "few"
    )
    with pytest.raises(UserError, match="no pad and no mask"):
        load_tokenizer(tmp_path / "few")

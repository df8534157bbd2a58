"""A foreign tokenizer takes the source's special ids; text splits as before, and position ids do not move."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.adaptation.packs.reindex import reindexed, with_layout_of
from megamini.data.tokenizer import special_roles
from megamini.errors import UserError
from megamini.models.lineage import lineage_of
from tests.models import bodies

WORDS = [f"w{number}" for number in range(40)]
TEXT = "w3 w0 w39 w7 unheard w1"
ROBERTA = {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4}


def unigram():
    """Special pieces at the end and in the middle, as in no tokenizer made here."""
    pieces = [*WORDS[:20], "<pad>", *WORDS[20:], "<unk>", "<s>", "</s>"]
    vocabulary = [(f"▁{p}" if p in WORDS else p, -1.0 - n / 100) for n, p in enumerate(pieces)]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=pieces.index("<unk>")))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    ids = {piece: pieces.index(piece) for piece in ("<s>", "</s>")}
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=list(ids.items()))
    # The mask joins behind the model's own vocabulary.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def word_piece():
    pieces = ["[MASK]", "[CLS]", *WORDS, "[UNK]", "[PAD]", "[SEP]", "##x"]
    backend = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    sep, cls = (("[SEP]", pieces.index("[SEP]")), ("[CLS]", pieces.index("[CLS]")))
    backend.post_processor = processors.BertProcessing(sep, cls)
    names = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{role}_token": piece for role, piece in names.items()}
    )


def byte_pairs():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "w3", "<mask>", "<unk>", "</s>", "<pad>", "<s>"]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [("w", "3")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), add_prefix_space=False
    )
    names = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{role}_token": piece for role, piece in names.items()}
    )


TOKENIZERS = {"unigram": unigram, "word piece": word_piece, "byte pairs": byte_pairs}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_splits_as_before_and_roles_are_where_they_should_be(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]()
    moved, order = reindexed(tokenizer, ROBERTA)
    assert special_roles(moved) == ROBERTA
    assert sorted(order.tolist()) == list(range(len(tokenizer))) and len(moved) == len(tokenizer)
    for text in (TEXT, "w5 <mask> w6" if kind != "word piece" else "w5 [MASK] w6", ""):
        before, after = tokenizer(text)["input_ids"], moved(text)["input_ids"]
        assert [int(order[number]) for number in after] == before
        assert moved.convert_ids_to_tokens(after) == tokenizer.convert_ids_to_tokens(before)
    moved.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXT)["input_ids"] == moved(TEXT)["input_ids"] and special_roles(again) == ROBERTA
    assert moved.decode(moved(TEXT)["input_ids"]) == tokenizer.decode(tokenizer(TEXT)["input_ids"])


def test_a_tokenizer_that_has_its_roles_there_comes_back_itself():
    tokenizer = bodies.small_tokenizer()
    moved, order = reindexed(tokenizer, ROBERTA)
    assert moved is tokenizer and order.tolist() == list(range(len(tokenizer)))


def test_a_vocabulary_that_ends_below_the_ids_is_refused():
    with pytest.raises(UserError, match="special token at id 103; prepare the data with a larger"):
        reindexed(unigram(), {"bos": 101, "pad": 0, "eos": 102, "unk": 100, "mask": 103})


@pytest.mark.parametrize("family", bodies.ENCODERS)
def test_a_foreign_tokenizer_plugged_in_keeps_position_ids_and_its_rows(family):
    """What the model reads of a padded text is what its rows say, at positions that begin where they began."""
    model, own = bodies.small_model(family), bodies.small_tokenizer()
    foreign = unigram()
    draw = torch.Generator().manual_seed(1)
    matrix = torch.randn(len(foreign), bodies.WIDTH, generator=draw)
    pack = LanguagePack("de", matrix, torch.randn(len(foreign), generator=draw), foreign, lineage_of(model, own))
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    tokenizer = plug(model, own, pack)
    assert special_roles(tokenizer) == special_roles(own)
    assert tokenizer.pad_token_id == model.config.pad_token_id

    texts = [TEXT, "w3 w0"]
    ours = tokenizer(texts, padding=True, return_tensors="pt")
    theirs = foreign(texts, padding=True, add_special_tokens=False)  # the model's own tokenizer adds none either
    with torch.no_grad():
        logits = model(**ours).logits
    rows = seen[0][1]
    assert torch.equal(rows, matrix[torch.tensor(theirs["input_ids"])])
    if hasattr(model.base_model.embeddings, "create_position_ids_from_input_ids"):
        positions = model.base_model.embeddings.create_position_ids_from_input_ids(ours["input_ids"], own.pad_token_id)
        lengths = ours["attention_mask"].sum(1)
        for row, length in zip(positions, lengths, strict=True):
            assert row[:length].tolist() == list(range(own.pad_token_id + 1, own.pad_token_id + 1 + length))
            assert (row[length:] == own.pad_token_id).all()
    # And a text alone, without pads, gives what it gives among others.
    alone = tokenizer(texts[1], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(
            model(**alone).logits[0], logits[1, : alone["input_ids"].shape[1]], atol=1e-4, rtol=1e-4
        )


def bert_source():
    """[CLS] a [SEP] b [SEP] with a second segment, at the ids of ROBERTA."""
    pieces = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *WORDS]
    backend = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 0))
    names = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{role}_token": piece for role, piece in names.items()},
    )


@pytest.mark.parametrize("foreign", [unigram, byte_pairs])
def test_pairs_are_laid_out_as_the_source_lays_them_out(foreign, tmp_path):
    source = bert_source()
    own, _ = reindexed(foreign(), special_roles(source))
    laid_out = with_layout_of(own, source)
    laid_out.save_pretrained(tmp_path)
    for tokenizer in (laid_out, AutoTokenizer.from_pretrained(tmp_path)):
        pair, first, second = tokenizer("w3 w7", "w1"), *(own(t, add_special_tokens=False) for t in ("w3 w7", "w1"))
        first, second = first["input_ids"], second["input_ids"]
        assert pair["input_ids"] == [0, *first, 2, *second, 2]
        assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        assert tokenizer("w3 w7")["input_ids"] == [0, *first, 2]
    assert with_layout_of(laid_out, source) is laid_out

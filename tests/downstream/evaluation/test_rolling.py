"""Bits per byte of decoders: every token once, by its own context, over the bytes of the text as it stands."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from megamini.data.tokenizer import train_unigram
from megamini.downstream.evaluation import without_labels
from megamini.downstream.evaluation.rolling import documents_of, rolling_bits, windows
from megamini.downstream.recipe import BitsPerByteSection
from megamini.errors import UserError
from tests.data.texts import SENTENCES, write_json_lines, write_text
from tests.models import bodies

TEXTS = [" ".join(SENTENCES), "Äpfel.", "Nobody had told the children.\nA good  map shows less than the land."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_unigram(SENTENCES * 3, 460, 0.9998, tmp_path_factory.mktemp("t") / "sample.txt")


def model_of(tokenizer, positions=512):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=positions, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 12, 13, 30])
def test_windows_count_each_token_once_behind_half_a_window(count):
    ids, length, seen = list(range(count)), 8, []
    for part, counted in windows(ids, length):
        assert 2 <= len(part) <= length and part == list(range(part[0], part[0] + len(part)))
        assert len(part) - counted >= length // 2 or part[0] == 0
        assert counted < len(part)
        seen += part[len(part) - counted :]
    assert seen == ids[1:]


def test_a_document_in_one_window_has_the_librarys_likelihood(tokenizer):
    model = model_of(tokenizer, positions=2048)
    parts, tokens = rolling_bits(model, tokenizer, TEXTS, "here", batch_size=2)
    counted = 0
    for text, (bits, size) in zip(TEXTS, parts, strict=True):
        ids = tokenizer(text)["input_ids"][:-1]
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        nats = functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum").item()
        assert bits == pytest.approx(nats / math.log(2), rel=1e-5)
        assert size == len(text.encode())
        counted += len(ids) - 1
    assert tokens == counted


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_windows_roll_over_what_is_longer(tokenizer, batch_size):
    """Token by token: each from the tokens that its window has before it."""
    model, length = model_of(tokenizer), 16
    parts, tokens = rolling_bits(model, tokenizer, TEXTS, "here", batch_size, window=length)
    for text, (bits, _) in zip(TEXTS, parts, strict=True):
        ids, nats, position = tokenizer(text)["input_ids"][:-1], 0.0, 1
        for part, count in windows(ids, length):
            for behind in range(len(part) - count, len(part)):
                with torch.no_grad():
                    logits = model(torch.tensor([part[:behind]]), use_cache=False).logits[0, -1]
                nats -= logits.log_softmax(-1)[ids[position]].item()
                position += 1
        assert position == len(ids)
        assert bits == pytest.approx(nats / math.log(2), rel=1e-5)
    assert tokens == sum(len(tokenizer(text)["input_ids"]) - 2 for text in TEXTS)


def test_text_that_cannot_be_counted_is_refused(tokenizer):
    model = model_of(tokenizer)
    for texts in ([], [""]):
        with pytest.raises(UserError, match="here: holds no text"):
            rolling_bits(model, tokenizer, texts, "here", 2)
    words = bodies.small_tokenizer()
    with pytest.raises(UserError, match=r"here: the tokenizer reads some of 'w1 what...' as unknown"):
        rolling_bits(bodies.small_model("llama"), words, ["w1 w2", "w1 what"], "here", 2)


def test_a_special_token_that_a_text_spells_is_text(tokenizer):
    parts, tokens = rolling_bits(model_of(tokenizer), tokenizer, ["a </s> b"], "here", 2)
    assert tokens > 5 and parts[0][1] == 8


def test_documents_are_those_of_a_file(tmp_path):
    texts = ["one\ntwo", "three", "x" * 250_000 + " end"]
    assert list(documents_of(str(write_json_lines(tmp_path / "a.jsonl", texts)))) == texts
    write_text(tmp_path / "b.txt", texts[:2])
    assert list(documents_of(str(tmp_path / "*.txt"))) == texts[:2]
    with pytest.raises(UserError, match="none"):
        list(documents_of(str(tmp_path / "none.txt")))


@pytest.mark.parametrize(
    "is_decoder, section, words",
    [
        (True, {"data": {"de": "x"}}, "primary is a decoder; give text, and no data"),
        (False, {"text": {"de": "x"}}, "primary is an encoder; give data, and no text"),
        (True, {}, "primary is a decoder; give text, and no data"),
        (True, {"data": {"de": "x"}, "text": {"de": "x"}}, "primary is a decoder; give text, and no data"),
    ],
)
def test_encoders_read_data_and_decoders_text(is_decoder, section, words):
    measures = SimpleNamespace(bits_per_byte=BitsPerByteSection(**section))
    primary = SimpleNamespace(is_decoder=is_decoder, name="primary", recipe=SimpleNamespace(measures=measures))
    kind = without_labels._RollingBits if is_decoder else without_labels._Bits
    with pytest.raises(UserError, match=words):
        kind(primary)

"""Texts that spell a special token, such as a manual of HTML, are text, as in the blocks that models learn from."""

import pytest

from megamini.data.tokenizer import encoder, load_tokenizer
from megamini.downstream.kinds.classification import encode_texts
from megamini.downstream.kinds.limits import Limits
from megamini.downstream.kinds.question_answering import QuestionAnswering
from megamini.downstream.kinds.tagging import encode_words
from megamini.downstream.kinds.windows import cut_windows
from megamini.downstream.task_data.examples import Answer, QuestionExample, TaggedExample, TextExample

TEXTS = ["Click <mask> now", "<s>struck out</s> and more", "<pad>", "</s>", "an <unk>nown word", "a <MASK> b"]


@pytest.fixture(scope="module")
def tokenizer(primary):
    return load_tokenizer(primary)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_as_in_pretraining(text, tokenizer):
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    blocks = encoder(tokenizer).encode(text, add_special_tokens=False).ids
    assert not set(blocks) & set(tokenizer.all_special_ids)
    (one,) = encode_texts([TextExample((text,), "x")], tokenizer, 64)
    assert one["input_ids"] == [bos, *blocks, eos]
    (pair,) = encode_texts([TextExample((text, text), "x")], tokenizer, 128)
    assert pair["input_ids"] == [bos, *blocks, eos, eos, *blocks, eos]
    (words,), places = encode_words([TaggedExample(tuple(text.split()), ("O",) * 3)], tokenizer, 64)
    assert words["input_ids"] == [bos, *blocks, eos]
    assert list(places[0][1].values()) == list(range(len(text.split())))
    (window,) = cut_windows([QuestionExample("1", text, text, ())], tokenizer, Limits(128))
    assert window.inputs["input_ids"] == [bos, *blocks, eos, eos, *blocks, eos]


def test_an_answer_that_is_a_tag_is_an_answer(tokenizer):
    example = QuestionExample("1", "Which tag?", "Use <s> here", (Answer("<s>", 4),))
    (one,) = QuestionAnswering().training_inputs([example], tokenizer, Limits(64), {})
    (window,) = cut_windows([example], tokenizer, Limits(64))
    start, end = one["start_positions"], one["end_positions"]
    assert example.context[window.spans[start][0] : window.spans[end][1]].strip() == "<s>"

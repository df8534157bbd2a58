"""How examples become inputs, and outputs answers: windows, spans, first pieces, and what is cut."""

import itertools

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

from megamini.data.tokenizer import load_tokenizer
from megamini.downstream.kinds.classification import Classification, encode_texts
from megamini.downstream.kinds.forward import IGNORED, Collator, outputs_of
from megamini.downstream.kinds.limits import Limits, fitting_length
from megamini.downstream.kinds.question_answering import QuestionAnswering, best_answers, measure_answers
from megamini.downstream.kinds.tagging import Tagging, encode_words, measure_tags
from megamini.downstream.kinds.windows import Window, cut_windows
from megamini.downstream.metrics.measurement import Measurement
from megamini.downstream.task_data.examples import Answer, QuestionExample, TaggedExample, TextExample
from megamini.errors import UserError

CONTEXT = " ".join(f"Room {number} holds {number * 7} loaves of bread." for number in range(30))


@pytest.fixture(scope="module")
def tokenizer(primary):
    return load_tokenizer(primary)


def question(answer: str | None, words: str = "How many loaves?") -> QuestionExample:
    answers = () if answer is None else (Answer(answer, CONTEXT.index(answer)),)
    return QuestionExample("1", words, CONTEXT, answers)


# --- questions ------------------------------------------------------------------------------------------------------


def test_windows_overlap_and_lose_nothing(tokenizer):
    limits = Limits(max_length=48, doc_stride=8)
    windows = cut_windows([question("119 loaves")], tokenizer, limits)
    assert len(windows) > 5
    assert all(len(window.inputs["input_ids"]) <= 48 for window in windows)
    characters = set()
    for window in windows:
        spans = [span for span in window.spans if span]
        characters.update(*(range(*span) for span in spans))
    assert {n for n, c in enumerate(CONTEXT) if not c.isspace()} <= characters
    for one, other in itertools.pairwise(windows):
        shared = {span for span in one.spans if span} & {span for span in other.spans if span}
        assert len(shared) >= 8


def test_the_answers_tokens_are_labelled_in_every_window_that_holds_it(tokenizer):
    example = question("119 loaves")
    limits = Limits(max_length=48, doc_stride=12)
    windows = cut_windows([example], tokenizer, limits)
    inputs = QuestionAnswering().training_inputs([example], tokenizer, limits, {})
    found = 0
    for window, one in zip(windows, inputs, strict=True):
        start, end = one["start_positions"], one["end_positions"]
        if (start, end) == (0, 0):
            continue
        found += 1
        assert CONTEXT[window.spans[start][0] : window.spans[end][1]].strip() == "119 loaves"
    assert 1 <= found < len(windows)


def test_a_question_without_an_answer_points_to_the_null_position(tokenizer):
    inputs = QuestionAnswering().training_inputs([question(None)], tokenizer, Limits(48), {})
    assert {(one["start_positions"], one["end_positions"]) for one in inputs} == {(0, 0)}


def test_a_long_question_leaves_room_for_the_context(tokenizer):
    long = question("119 loaves", "Why " * 300)
    windows = cut_windows([long], tokenizer, Limits(max_length=40, doc_stride=128))
    for window in windows:
        assert len(window.inputs["input_ids"]) <= 40
        assert sum(span is not None for span in window.spans) >= 1


def test_words_of_a_byte_level_tokenizer_begin_with_their_space():
    """As in running text: `Ġmet`, not the `met` inside another word."""
    backend = Tokenizer(models.BPE({p: n for n, p in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False)])
    byte_level = PreTrainedTokenizerFast(tokenizer_object=backend)
    inputs, places = encode_words([TaggedExample(("Ada", "met"), ("A", "B"))], byte_level, 64)
    assert inputs[0]["input_ids"] == byte_level(" Ada met")["input_ids"]
    assert places == [(0, {0: 0, 4: 1})]
    assert byte_level("Ada")["input_ids"] != byte_level(" Ada")["input_ids"], "the given one is as it was"


# A context of five words, one token each, behind a question of one token: positions 3 to 7.
WORDS = "Ada met Bob in Rome"
SPANS = [None, None, None, (0, 3), (4, 7), (8, 11), (12, 14), (15, 19), None]


def words_window(starts: dict[int, float], ends: dict[int, float], null: float = 0.0):
    window = Window({"input_ids": list(range(9))}, 0, SPANS)
    scores = np.full((2, 9), -10.0)
    scores[:, 0] = null / 2
    for row, given in enumerate((starts, ends)):
        for token, value in given.items():
            scores[row, token] = value
    return window, (scores[0], scores[1])


@pytest.mark.parametrize(
    ("starts", "ends", "longest", "answer"),
    [
        ({3: 5.0}, {3: 5.0}, 30, "Ada"),
        ({3: 5.0}, {5: 5.0}, 30, "Ada met Bob"),
        ({7: 5.0, 5: 4.0}, {5: 5.0, 7: 4.5}, 30, "Rome"),  # an end before its start is no span: 5 + 4.5 against 4 + 5
        ({3: 5.0, 7: 3.0}, {7: 5.0}, 2, "Rome"),  # five tokens are too many
        ({1: 9.0, 4: 1.0}, {2: 9.0, 4: 1.0}, 30, "met"),  # tokens of the question are never an answer
    ],
)
def test_the_best_span_by_hand(starts, ends, longest, answer):
    example = QuestionExample("1", "Who?", WORDS, ())
    window, scores = words_window(starts, ends)
    assert best_answers([example], [window], [scores], Limits(64, max_answer_length=longest)) == [answer]


def test_the_best_window_wins_and_null_answers_only_where_they_are_wanted():
    examples = [QuestionExample("1", "Who?", WORDS, ())]
    (weak, low), (strong, high) = words_window({3: 1.0}, {3: 1.0}, null=9.0), words_window({7: 3.0}, {7: 3.0}, null=7.0)
    windows, scores = [weak, strong], [low, high]
    assert best_answers(examples, windows, scores, Limits(64)) == ["Rome"]
    assert best_answers(examples, windows, scores, Limits(64, null_answers=True)) == [""]
    surer = [low, words_window({7: 4.0}, {7: 4.0}, null=7.0)[1]]
    assert best_answers(examples, windows, surer, Limits(64, null_answers=True)) == ["Rome"]


def test_a_window_without_context_gives_no_answer():
    example = QuestionExample("1", "Who?", "", ())
    window = Window({"input_ids": [0, 5, 2]}, 0, [None, None, None])
    scores = (np.zeros(3), np.zeros(3))
    assert best_answers([example], [window], [scores], Limits(64)) == [""]
    assert measure_answers([example], [""], "en").values == {"f1": 1, "exact_match": 1}


# --- tags -----------------------------------------------------------------------------------------------------------


def test_every_word_begins_once_however_the_sentence_is_cut(tokenizer):
    words = (*CONTEXT.split(), "\u200b", "end")
    examples = [TaggedExample(words, ("O",) * len(words)), TaggedExample(("Bread", "!"), ("O", "O"))]
    inputs, places = encode_words(examples, tokenizer, max_length=20)
    assert all(len(one["input_ids"]) <= 20 for one in inputs)
    seen = [(sentence, word) for sentence, positions in places for word in positions.values()]
    assert len(seen) == len(set(seen))
    missing = {(0, n) for n in range(len(words))} - set(seen)
    assert missing <= {(0, words.index("\u200b"))}, "only a word that the tokenizer drops has no piece"
    for one, (sentence, positions) in zip(inputs, places, strict=True):
        for position, word in positions.items():
            piece = tokenizer.convert_ids_to_tokens(one["input_ids"][position])
            assert piece.startswith("▁"), (piece, examples[sentence].words[word])


def test_only_first_pieces_are_trained_on(tokenizer):
    example = TaggedExample(("Bread", "unbelievably", "good"), ("B", "C", "D"))
    ids = {"B": 0, "C": 1, "D": 2}
    (one,) = Tagging().training_inputs([example], tokenizer, Limits(64), ids)
    assert [label for label in one["labels"] if label != IGNORED] == [0, 1, 2]
    assert len(one["labels"]) == len(one["input_ids"])
    assert one["labels"][0] == one["labels"][-1] == IGNORED


def test_a_model_that_says_one_tag_scores_its_share(primary, tokenizer):
    model = AutoModelForTokenClassification.from_pretrained(
        primary, id2label={0: "NOUN", 1: "VERB"}, label2id={"NOUN": 0, "VERB": 1}
    )
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([1.0, 0.0]))
    examples = [TaggedExample(("Bread", "rises", "now"), ("NOUN", "VERB", "NOUN"))] * 3
    measured = Tagging().measure(model, tokenizer, examples, Limits(64), "en", batch_size=2)
    assert measured == Measurement({"accuracy": pytest.approx(2 / 3)}, {"accuracy": [(2, 3)] * 3})
    entity = measure_tags([("B-PER", "O")], [("B-PER", "O")])
    assert entity.values == {"accuracy": 1, "precision": 1, "recall": 1, "f1": 1}


# --- classes --------------------------------------------------------------------------------------------------------


def test_pairs_are_encoded_as_the_tokenizer_does_it(tokenizer):
    (one,) = encode_texts([TextExample(("Bread is old", "Water"), "x")], tokenizer, 64)
    assert one["input_ids"] == tokenizer("Bread is old", "Water")["input_ids"]
    (cut,) = encode_texts([TextExample((CONTEXT, "Water"), "x")], tokenizer, 32)
    assert len(cut["input_ids"]) == 32
    assert cut["input_ids"][-4:] == one["input_ids"][-4:], "the longer text of a pair loses its end"


def test_outputs_do_not_depend_on_the_batch(primary, tokenizer):
    model = AutoModelForSequenceClassification.from_pretrained(primary, num_labels=3)
    texts = [TextExample((" ".join(["bread"] * n),), "x") for n in (1, 30, 3, 17, 5)]
    inputs = encode_texts(texts, tokenizer, 64)
    together, alone = (outputs_of(model, inputs, tokenizer.pad_token_id, size, "en") for size in (5, 1))
    for (one,), (other,) in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert not model.training


def test_batches_are_padded_by_what_each_key_needs():
    batch = Collator(pad_id=1)([
        {"input_ids": [0, 5, 2], "attention_mask": [1, 1, 1], "labels": [IGNORED, 3, IGNORED]},
        {"input_ids": [0, 2], "attention_mask": [1, 1], "labels": [4, IGNORED]},
    ])  # fmt: skip
    assert batch["input_ids"].tolist() == [[0, 5, 2], [0, 2, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 3, IGNORED], [4, IGNORED, IGNORED]]
    assert Collator(1)([{"input_ids": [0], "labels": 2}])["labels"].tolist() == [2]


def test_labels_in_order():
    assert Classification().labels_of([TextExample(("a",), "z"), TextExample(("b",), "y")]) == ("y", "z")


def test_lengths_that_the_model_has_no_positions_for(primary):
    config = AutoConfig.from_pretrained(primary)
    assert fitting_length(None, "classification", config) == 64
    assert fitting_length(20, "classification", config) == 20
    with pytest.raises(UserError, match="max_length: 65 tokens, but the model has positions for 64"):
        fitting_length(65, "classification", config)

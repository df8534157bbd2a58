"""Question answering on what real files hold: decomposed texts, blank and misplaced answers, TyDi QA's own release."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from megamini.data.tokenizer import train_unigram
from megamini.downstream.kinds.limits import Limits
from megamini.downstream.kinds.question_answering import QuestionAnswering, best_answers
from megamini.downstream.kinds.windows import cut_windows
from megamini.downstream.task_data.examples import Answer, QuestionExample
from megamini.downstream.tasks.custom import custom_task
from megamini.downstream.tasks.registry import TASKS
from megamini.errors import UserError
from tests.downstream.workplace import write

# Context and answer, in the composed form. The last two are not in the list of public reports.
TEXTS = {
    "accent": ("He met José , then he left.", "José"),
    "hangul": ("저는 한국어 공부 를 합니다 .", "공부"),
    "bengali": ("আমি কোথায় ছিলাম ভালো তো", "ভালো"),
    "tamil": ("நான் யாரோ என்று சொன்னேன்", "யாரோ"),
    "vietnamese": ("Người ta nói ở quê nhà cũ .", "quê nhà cũ"),
    "kana": ("これ は ブラジル の ラジオ だ が 、", "ラジオ だ が"),
}
# Sara am has no canonical decomposition; keyboards and old files spell it as two characters all the same.
SARA_AM = ("เขา ไป ทำงาน ที่ น้ำ", "ทำงาน")


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    text = [context for context, _ in (*TEXTS.values(), SARA_AM)] * 40
    return train_unigram(text, 425, 0.9998, tmp_path_factory.mktemp("unigram") / "sample.txt")


@pytest.fixture(scope="module")
def without_accents():
    """As BERT's uncased vocabularies: accents and vowel signs are dropped, whatever the form."""
    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    words = {word for context, _ in TEXTS.values() for word in normalizer.normalize_str(context).split()}
    vocabulary = {piece: n for n, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words)])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def question(context: str, answer: str) -> QuestionExample:
    return QuestionExample("1", "Who?", context, (Answer(answer, context.index(answer)),))


def labels(example: QuestionExample, tokenizer) -> tuple[int, int]:
    (one,) = QuestionAnswering().training_inputs([example], tokenizer, Limits(64), {})
    return one["start_positions"], one["end_positions"]


def said(example: QuestionExample, tokenizer, start: int, end: int) -> str:
    """The answer of a model that is sure of the tokens start to end."""
    (window,) = cut_windows([example], tokenizer, Limits(64))
    scores = np.full((2, len(window.spans)), -9.0)
    scores[0, start] = scores[1, end] = 9.0
    (answer,) = best_answers([example], [window], [(scores[0], scores[1])], Limits(64))
    return answer


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", ["unigram", "without_accents"])
def test_a_decomposed_answer_is_labelled_and_read_as_a_composed_one(name, kind, request):
    tokenizer = request.getfixturevalue(kind)
    context, answer = (unicodedata.normalize("NFC", text) for text in TEXTS[name])
    composed = question(context, answer)
    expected = labels(composed, tokenizer)
    assert 0 not in expected
    apart = question(*(unicodedata.normalize("NFD", text) for text in (context, answer)))
    assert apart.context != composed.context
    assert labels(apart, tokenizer) == expected
    for example in (composed, apart):
        assert said(example, tokenizer, *expected) == example.answers[0].text, "to the end of its last character"


def test_sara_am_in_one_character_or_two(unigram):
    composed = question(*SARA_AM)
    apart = question(*(text.replace("\u0e33", "\u0e4d\u0e32") for text in SARA_AM))
    expected = labels(composed, unigram)
    assert 0 not in expected
    assert labels(apart, unigram) == expected
    # An answer that ends with it.
    for context in (composed.context, apart.context):
        example = question(context, context[context.index("น้") :])
        assert said(example, unigram, *labels(example, unigram)) == example.answers[0].text


@pytest.mark.parametrize("answer", [" José ", "\u200bJosé\u200b", "José\n"])
def test_what_is_not_seen_around_an_answer_does_not_make_it_no_answer(answer, unigram):
    example = question(f"He met{answer}, then he left.", answer)
    assert 0 not in labels(example, unigram)
    assert said(example, unigram, *labels(example, unigram)).strip("\u200b") == "José"


@pytest.fixture(scope="module")
def that_trims():
    """As RobBERT's: it trims the offset of a space that its words never had."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Punctuation(),
    ])  # fmt: skip
    text = ["Wie wonen er in Amsterdam , en in Den Haag , ja ?"] * 9
    backend.train_from_iterator(text, trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>", "<pad>"]))
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=True)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("answer", ["Amsterdam", "Den Haag", "in Den"])
@pytest.mark.parametrize("length", [64, 16])
def test_a_word_whose_first_letter_no_token_is_said_to_hold(answer, length, that_trims):
    context = "Wie wonen er in Amsterdam , en in Den Haag , ja . " * 3
    example, limits = question(context, answer), Limits(length, doc_stride=4)
    windows = cut_windows([example], that_trims, limits)
    inputs = QuestionAnswering().training_inputs([example], that_trims, limits, {})
    found = [
        context[window.spans[one["start_positions"]][0] : window.spans[one["end_positions"]][1]]
        for window, one in zip(windows, inputs, strict=True)
        if one["start_positions"]
    ]
    assert found
    assert set(found) == {answer}


def test_a_question_of_spaces_leaves_room_for_its_context(that_trims, unigram):
    for tokenizer in (that_trims, unigram):
        example = QuestionExample("1", " " * 5000 + "ja" + " " * 5000 + "Wie ?", "er in Haag", (Answer("Haag", 6),))
        assert 0 not in labels(example, tokenizer)


# --- files ----------------------------------------------------------------------------------------------------------


def squad(*questions: dict, context: str = "Köln liegt am Rhein.") -> str:
    paragraph = {
        "context": context,
        "qas": [{"id": str(n), "question": "Wo?", **one} for n, one in enumerate(questions)],
    }
    return json.dumps({"data": [{"paragraphs": [paragraph]}]})


def answers(text: str, start: int) -> dict:
    return {"answers": [{"text": text, "answer_start": start}]}


RHINE, BLANK, MISPLACED = answers("Rhein", 14), answers("", 0), answers("Rhein", 2)


@pytest.mark.parametrize(
    ("task", "split", "name"),
    [
        ("xquad", "test", "xquad.de.json"),
        ("mlqa", "test", "test-context-de-question-de.json"),
        ("tydiqa", "dev", "tydiqa.goldp.de.dev.json"),
    ],
)
def test_blanked_answers_are_one_line_that_names_the_file(task, split, name, tmp_path):
    write(tmp_path / name, squad(BLANK, BLANK))
    with pytest.raises(UserError, match=r"the answers are empty.*XTREME's download script") as caught:
        TASKS[task].read(tmp_path, split, "de")
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("given", [{"answers": []}, answers("  ", 0)])
def test_a_file_without_any_answer_is_no_test(given, tmp_path):
    write(tmp_path / "xquad.de.json", squad(given, given))
    with pytest.raises(UserError, match=r"xquad.de.json: (the answers are empty|no question has an answer)"):
        TASKS["xquad"].read(tmp_path, "test", "de")


def test_one_misplaced_answer_is_named_and_counted_and_scored(tmp_path, capsys, unigram):
    write(tmp_path / "xquad.de.json", squad(RHINE, MISPLACED, BLANK, answers("Rhein", -1)))
    read = TASKS["xquad"].read(tmp_path, "test", "de")
    out = capsys.readouterr().out.splitlines()
    assert [line.removeprefix(f"{tmp_path}/xquad.de.json: ") for line in out] == [
        "1 of 4 questions, the first at data[0].paragraphs[0].qas[2]: question '2' has empty answers only: left out",
        "2 of 4 questions, the first at data[0].paragraphs[0].qas[1]: the context does not hold the answer 'Rhein' at "
        "character 2: scored, not trained on",
    ]
    assert [[(answer.text, answer.start) for answer in one.answers] for one in read] == [
        [("Rhein", 14)], [("Rhein", None)], [("Rhein", None)],
    ]  # fmt: skip
    assert len(QuestionAnswering().training_inputs(read, unigram, Limits(64), {})) == 1, "no one learns 'no answer'"


def test_an_answer_in_the_other_form_than_its_context_is_in_its_place(tmp_path):
    context = unicodedata.normalize("NFD", "Er traf José am Rhein.")
    write(tmp_path / "xquad.de.json", squad(answers("José", 8), context=context))
    (read,) = TASKS["xquad"].read(tmp_path, "test", "de")
    assert read.answers == (Answer(unicodedata.normalize("NFD", "José"), 8),)


@pytest.mark.parametrize("part", ["context", "question", "text"])
def test_half_a_surrogate_pair_is_one_line_with_its_place(part, tmp_path):
    half = squad(RHINE).replace({"context": "am Rhein.", "question": "Wo?", "text": '"Rhein"'}[part], "@@")
    half = half.replace("@@", '"Rhein\\ud83d"' if part == "text" else "\\ud83d")
    write(tmp_path / "xquad.de.json", half)
    with pytest.raises(UserError, match=rf"xquad.de.json: row data\[0\].*'{part}' holds half a surrogate pair"):
        TASKS["xquad"].read(tmp_path, "test", "de")


def test_tydi_qa_as_its_own_repository_releases_it(tmp_path):
    def asked(identity: str) -> dict:
        return {**RHINE, "id": identity}

    write(tmp_path / "tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-english.json", squad(asked("english-1")))
    write(tmp_path / "tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-finnish.json", squad(asked("finnish-1")))
    mixed = squad(asked("english-123"), asked("arabic-2387335860751143628-1"), asked("english-4"), asked("korean-1"))
    write(tmp_path / "tydiqa-goldp-v1.1-train.json", mixed)

    def ids(task: str, split: str, language: str) -> list[str]:
        return [one.id for one in TASKS[task].read(tmp_path, split, language)]

    assert ids("tydiqa", "dev", "en") == ["english-1"]
    assert ids("tydiqa", "dev", "fi") == ids("tydiqa", "dev", "fin") == ["finnish-1"]
    assert ids("tydiqa", "train", "en") == ids("squad", "train", "en") == ["english-123", "english-4"]
    assert ids("tydiqa", "train", "ar") == ["arabic-2387335860751143628-1"]
    with pytest.raises(UserError, match=r"train.json: no example in language 'sw'"):
        ids("tydiqa", "train", "sw")
    with pytest.raises(UserError, match="no dev data of tydiqa in language 'sw'"):
        ids("tydiqa", "dev", "sw")
    write(tmp_path / "tydiqa-goldp-v1.1-dev.json", mixed)  # all languages in one, also of the questions to test on
    assert ids("tydiqa", "dev", "ko") == ["korean-1"]


def test_own_questions_are_read_as_any(tmp_path):
    write(tmp_path / "mine.json", "\ufeff" + squad(RHINE, {"answers": []}))
    read = custom_task("mine", "question-answering", {"test": "mine.json"}).read(Path(tmp_path), "test", "de")
    assert [len(one.answers) for one in read] == [1, 0]

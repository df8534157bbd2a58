"""Scores beside those of the official scripts (SQuAD 1.1's evaluate-v1.1.py, MLQA's mlqa_evaluation_v1.py), run once on
the same predictions: to four digits on hand cases in eight languages, and on the real files to six."""

from pathlib import Path

import pytest

from megamini.downstream.kinds.by_name import kind_of
from megamini.downstream.kinds.question_answering import measure_answers
from megamini.downstream.metrics.answers import answer_f1, exact_match, normalize, normalize_squad
from megamini.downstream.task_data.examples import Answer, QuestionExample
from megamini.downstream.tasks.custom import custom_task
from megamini.downstream.tasks.registry import TASKS
from megamini.errors import UserError

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"

# language, predicted, gold, SQuAD's F1 and exact match, MLQA's (whose script knows no Thai)
OFFICIAL = [
    ("en", "the Denver Broncos, a team", "Denver Broncos", 0.8000, 0, 0.8000, 0),
    ("en", "at $5.00 (a day)", "$5.00", 0.5000, 0, 0.5000, 0),
    ("en", "the", "a", 0.0000, 1, 0.0000, 1),  # nothing is left to compare: equal, and no word shared
    ("de", "die Stadt Köln", "Köln", 0.5000, 0, 0.6667, 0),
    ("de", "der „Spiegel“ eines Hauses", "Spiegel eines Hauses", 0.5714, 0, 1.0000, 1),
    ("es", "¿la ciudad de México?", "Ciudad de México", 0.8571, 0, 1.0000, 1),
    ("es", "el año 1999", "1999", 0.5000, 0, 0.6667, 0),
    ("zh", "在北京大学。", "北京大学", 0.0000, 0, 0.8889, 0),
    ("zh", "1949年10月1日", "1949年10月", 0.0000, 0, 0.8000, 0),
    ("th", "กรุงเทพมหานคร ฯ", "กรุงเทพมหานคร", 0.6667, 0, None, None),
    ("th", "ใน พ.ศ. 2325", "พ.ศ. 2325", 0.8000, 0, None, None),
    ("hi", "भारत की राजधानी।", "भारत की राजधानी", 0.6667, 0, 1.0000, 1),
    ("ar", "في القاهرة، مصر", "القاهرة", 0.0000, 0, 0.5000, 0),
    ("vi", "những con mèo của tôi", "con mèo", 0.5714, 0, 0.8000, 0),
]


@pytest.mark.parametrize(("language", "predicted", "gold", "squad_f1", "squad_em", "mlqa_f1", "mlqa_em"), OFFICIAL)
def test_hand_cases_as_the_official_scripts(language, predicted, gold, squad_f1, squad_em, mlqa_f1, mlqa_em):
    rules = {"squad": (normalize_squad, squad_f1, squad_em), "mlqa": (normalize, mlqa_f1, mlqa_em)}
    for form, f1, exact in rules.values():
        if f1 is not None:
            assert round(answer_f1(predicted, gold, language, form), 4) == f1
            assert exact_match(predicted, gold, language, form) == exact


def test_each_set_is_scored_by_its_own_script():
    example = QuestionExample("1", "Wo?", "Köln", (Answer("Köln", 0),))
    own = custom_task("mine", "question-answering", {"test": "a.json"})
    scores = {}
    for task in (TASKS["squad"], TASKS["xquad"], TASKS["tydiqa"], TASKS["mlqa"], own):
        assert kind_of(task)._form is task.answer_form
        scores[task.name] = measure_answers([example], ["die Stadt Köln"], "de", task.answer_form).values["f1"]
    by_squad, by_mlqa = pytest.approx(1 / 2), pytest.approx(2 / 3)
    assert scores == {"squad": by_squad, "xquad": by_squad, "tydiqa": by_squad, "mlqa": by_mlqa, "mine": by_mlqa}


def test_a_question_that_has_no_answer_is_right_without_one():
    example = QuestionExample("1", "Wo?", "Köln", ())
    for predicted, value in (("", 1), ("the", 1), ("Köln", 0)):
        measured = measure_answers([example], [predicted], "de", normalize_squad)
        assert measured.values == {"f1": value, "exact_match": value}


# Task, split, language, questions, F1 and exact match of the official script for the predictions below.
REAL = [
    ("xquad", "test", "en", 1190, 0.551615, 0.216807),
    ("xquad", "test", "de", 1190, 0.544887, 0.215126),
    ("xquad", "test", "es", 1190, 0.566500, 0.219328),
    ("mlqa", "dev", "en", 1148, 0.538658, 0.221254),
    ("mlqa", "dev", "de", 512, 0.543283, 0.224609),
    ("mlqa", "dev", "es", 500, 0.568664, 0.236000),
    ("tydiqa", "train", "en", 3696, 0.553156, 0.227814),
]


def prediction(number: int, context: str, gold: Answer) -> str:
    """Right, too much before, too much behind, half of it, nothing: in turn."""
    stop = gold.start + len(gold.text)
    return [
        gold.text,
        context[max(0, gold.start - 9) : stop],
        context[gold.start : stop + 9],
        gold.text[: len(gold.text) // 2],
        "",
    ][number % 5]


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data, where the real task files lie")
@pytest.mark.parametrize(("task", "split", "language", "count", "f1", "exact"), REAL)
def test_real_files_as_the_official_scripts(task, split, language, count, f1, exact):
    examples = TASKS[task].read(DATA / task, split, language)
    assert len(examples) == count
    predicted = [prediction(n, one.context, one.answers[0]) for n, one in enumerate(examples)]
    values = measure_answers(examples, predicted, language, TASKS[task].answer_form).values
    assert (round(values["f1"], 6), round(values["exact_match"], 6)) == (f1, exact)


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data, where the real task files lie")
def test_a_real_file_whose_answers_are_blank():
    with pytest.raises(UserError, match=r"tydiqa.goldp.en.dev.json: the answers are empty"):
        TASKS["tydiqa"].read(DATA / "tydiqa", "dev", "en")

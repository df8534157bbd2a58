"""What each example counts in a metric: the ratio of the sums is the metric, on hand cases and on real files."""

import random
from pathlib import Path

import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from megamini.downstream.kinds.classification import measure_classes
from megamini.downstream.kinds.question_answering import measure_answers
from megamini.downstream.kinds.tagging import measure_tags
from megamini.downstream.metrics.measurement import Measurement, ratio
from megamini.downstream.task_data.examples import Answer, QuestionExample
from megamini.downstream.tasks.registry import TASKS

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


def is_exact(measured: Measurement, examples: int) -> bool:
    """Whether the parts, one an example, give the very values."""
    return all(len(one) == examples for one in measured.parts.values()) and all(
        ratio(one) == measured.values[metric] for metric, one in measured.parts.items()
    )


def test_classes_by_hand():
    measured = measure_classes(["a", "b", "b"], ["a", "a", "b"])
    assert measured.parts == {"accuracy": [(1, 1), (0, 1), (1, 1)]}, "macro-F1 is no ratio of sums over examples"
    assert is_exact(measured, 3)


def test_tags_by_hand():
    gold = [("O", "B-PER", "I-PER", "B-LOC"), (None, None), ("O", None), ("B-LOC", "O")]
    # An I- that continues nothing is no entity.
    predicted = [("O", "B-PER", "I-PER", "I-LOC"), ("O", "B-LOC"), ("B-LOC", "B-LOC"), ("B-LOC", "B-PER")]
    measured = measure_tags(gold, predicted)
    assert measured.parts == {
        "accuracy": [(3, 4), (0, 0), (0, 1), (1, 2)],
        "f1": [(2, 3), (0, 0), (0, 1), (2, 3)],
    }
    assert (measured.values["accuracy"], measured.values["f1"]) == (4 / 7, 4 / 7)
    assert is_exact(measured, 4)


def test_without_entities_f1_is_zero_and_accuracy_of_nothing_is_no_number():
    measured = measure_tags([("O", "O")], [("O", "O")], TASKS["panx"].labels)
    assert measured.values["f1"] == 0
    assert measured.parts["f1"] == [(0, 0)]
    with pytest.raises(ZeroDivisionError):
        measure_tags([(None,)], [("O",)])


def test_answers_by_hand():
    examples = [QuestionExample(str(n), "Wo?", "Köln am Rhein", (Answer("Köln", 0),)) for n in range(3)]
    measured = measure_answers(examples, ["Köln", "Köln am Rhein", "Rhein"], "de")
    assert measured.parts == {"f1": [(1, 1), (0.5, 1), (0, 1)], "exact_match": [(1, 1), (0, 1), (0, 1)]}
    assert is_exact(measured, 3)


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data, where the real task files lie")
@pytest.mark.parametrize(
    ("task", "split", "language"),
    [("xnli", "test", "de"), ("sib200", "test", "it"), ("ud_pos", "test", "ru"), ("panx", "dev", "de"),
     ("xquad", "test", "es")],
)  # fmt: skip
def test_real_files(task, split, language):
    examples, draw = TASKS[task].read(DATA / task, split, language), random.Random(0)
    kind = TASKS[task].kind

    def mostly(value, others):
        return value if draw.random() < 0.7 else draw.choice(others)

    if kind == "classification":
        gold = [one.label for one in examples]
        measured = measure_classes(gold, [mostly(one, sorted(set(gold))) for one in gold])
    elif kind == "tagging":
        gold = [one.tags for one in examples]
        tags = sorted({tag for own in gold for tag in own if tag})
        predicted = [[mostly(tag, tags) if tag else "O" for tag in own] for own in gold]
        measured = measure_tags(gold, predicted)
    else:
        answers = [one.answers[0].text for one in examples]
        measured = measure_answers(examples, [mostly(one, answers) for one in answers], language)
    assert TASKS[task].metric in measured.parts
    assert 0.3 < measured.values[TASKS[task].metric] < 0.9
    assert is_exact(measured, len(examples))
    if task == "panx":
        theirs = f1_score([list(own) for own in gold], predicted, mode="strict", scheme=IOB2)
        assert measured.values["f1"] == pytest.approx(theirs, rel=1e-12)

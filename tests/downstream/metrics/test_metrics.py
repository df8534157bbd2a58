"""Accuracy and F1 agree with scikit-learn and strict seqeval, on random classes and tags."""

import random

import pytest
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2
from sklearn import metrics as sklearn

from megamini.downstream.kinds.classification import measure_classes
from megamini.downstream.metrics.tag_schemes import entity_counts, entity_f1

TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]


@pytest.mark.parametrize("seed", range(10))
def test_classes_agree_with_scikit_learn(seed):
    draw = random.Random(seed)
    gold, predicted = ([draw.choice("abcd"[: 2 + seed % 3]) for _ in range(50)] for _ in range(2))
    predicted[0] = "only predicted"
    values = measure_classes(gold, predicted).values
    assert values["accuracy"] == pytest.approx(sklearn.accuracy_score(gold, predicted))
    assert values["macro_f1"] == pytest.approx(sklearn.f1_score(gold, predicted, average="macro", zero_division=0))


@pytest.mark.parametrize("seed", range(20))
def test_entities_agree_with_seqeval(seed):
    draw = random.Random(seed)
    gold = [[draw.choice(TAGS) for _ in range(draw.randint(1, 12))] for _ in range(20)]
    # Mostly right, so that there are entities that agree.
    predicted = [[tag if draw.random() < 0.8 else draw.choice(TAGS) for tag in tags] for tags in gold]
    ours = entity_f1(entity_counts(gold, predicted, "IOB2"))
    theirs = [
        score(gold, predicted, mode="strict", scheme=IOB2)
        for score in (seqeval.precision_score, seqeval.recall_score, seqeval.f1_score)
    ]
    assert 0 < ours[2] < 1
    assert ours == pytest.approx(theirs)


def test_entities_by_hand():
    # An I- that continues nothing is no entity: of the gold ones PER, LOC; of the predicted PER, ORG.
    gold = [["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-ORG"]]
    predicted = [["B-PER", "I-PER", "O", "O", "B-ORG", "O"]]
    assert entity_f1(entity_counts(gold, predicted, "IOB2")) == (0.5, 0.5, 0.5)
    assert entity_f1(entity_counts([["O"]], [["O"]], "IOB2")) == (0, 0, 0)

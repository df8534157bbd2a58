"""Accuracy and F1 agree with scikit-learn and seqeval, on random classes and tags."""

import os
import random
import subprocess
import sys

import pytest
from seqeval import metrics as seqeval
from sklearn import metrics as sklearn

from megamini.downstream.metrics import accuracy, entities, entity_f1, f1, macro_f1
from tests.integration.launching import ROOT

TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]


@pytest.mark.parametrize("seed", range(10))
def test_classes_agree_with_scikit_learn(seed):
    draw = random.Random(seed)
    gold, predicted = ([draw.choice("abcd"[: 2 + seed % 3]) for _ in range(50)] for _ in range(2))
    predicted[0] = "only predicted"
    assert accuracy(gold, predicted) == pytest.approx(sklearn.accuracy_score(gold, predicted))
    assert macro_f1(gold, predicted) == pytest.approx(
        sklearn.f1_score(gold, predicted, average="macro", zero_division=0)
    )


def test_cases_macro_f1_is_one_number_whatever_the_hash_seed():
    program = (
        "import random; from megamini.downstream.metrics import macro_f1; draw = random.Random(1)\n"
        "words = ['class %d' % number for number in range(30)]\n"
        "print(repr(macro_f1(*([draw.choice(words) for _ in range(997)] for _ in range(2)))))"
    )
    values = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in range(6)
    }  # fmt: skip
    assert len(values) == 1, values


@pytest.mark.parametrize("seed", range(20))
def test_entities_agree_with_seqeval(seed):
    draw = random.Random(seed)
    gold = [[draw.choice(TAGS) for _ in range(draw.randint(1, 12))] for _ in range(20)]
    # Mostly right, so that there are entities that agree.
    predicted = [[tag if draw.random() < 0.8 else draw.choice(TAGS) for tag in tags] for tags in gold]
    ours = entity_f1(gold, predicted)
    theirs = (
        seqeval.precision_score(gold, predicted),
        seqeval.recall_score(gold, predicted),
        seqeval.f1_score(gold, predicted),
    )
    assert 0 < ours[2] < 1
    assert ours == pytest.approx(theirs)


def test_entities_by_hand():
    assert entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-ORG"]) == [
        ("PER", 0, 2),
        ("LOC", 3, 4),
        ("LOC", 4, 5),
        ("ORG", 5, 6),
    ]
    assert entities(["O", "O"]) == []
    assert entity_f1([["O"]], [["O"]]) == (0, 0, 0)
    assert f1(2, 4, 5) == pytest.approx((0.5, 0.4, 4 / 9))

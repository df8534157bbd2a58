"""Intervals of differences: how often they hold a known truth, what pairing gains, and where a report shows them."""

import json
import math

import numpy as np
import pytest

from megamini.commands.reporting import paired
from megamini.commands.reporting.differences import differences_section
from megamini.commands.reporting.evaluation import read_evaluation
from megamini.commands.reporting.paired import SystemScores, paired_difference
from megamini.commands.reporting.summary import result_in_words
from megamini.downstream.evaluation.scores import FILE
from megamini.downstream.results import Learned, Result
from megamini.errors import UserError

SEEDS, EXAMPLES, EFFECT = 3, 300, 0.3


def accuracies(draw: np.random.Generator) -> tuple[SystemScores, SystemScores]:
    """Two systems of which the first is better: examples have a difficulty for both (deviation 4) and for each (2),
    seeds a quality (0.3), all on the scale of log-odds."""
    for_both, systems = 1 + draw.normal(0, 4, EXAMPLES), []
    for effect in (EFFECT, 0):
        odds = for_both + effect + draw.normal(0, 2, EXAMPLES) + draw.normal(0, 0.3, (SEEDS, 1))
        right = (draw.random((SEEDS, EXAMPLES)) < 1 / (1 + np.exp(-odds))).astype(float)
        systems.append(SystemScores(right, np.ones_like(right)))
    return systems[0], systems[1]


def true_difference() -> float:
    """Of the expected accuracies, over all that is drawn, by quadrature over the normal sum of the log-odds."""
    places, weights = np.polynomial.hermite_e.hermegauss(80)
    odds = 1 + math.sqrt(4**2 + 2**2 + 0.3**2) * places
    return float((weights * (1 / (1 + np.exp(-odds - EFFECT)) - 1 / (1 + np.exp(-odds)))).sum() / weights.sum())


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """95%, within 91 and 99.5%: of 200 repetitions the share has a deviation of 1.5 points, and the crossed bootstrap
    counts the noise of single answers more than once, which makes the interval a little wide."""
    draw, truth = np.random.default_rng(0), true_difference()
    intervals = [paired_difference(*accuracies(draw), rounds=500, seed=n)[1:] for n in range(200)]
    assert 0.91 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.995


def test_pairing_narrows_the_interval():
    """The same answers, of other examples for each system: what both find hard no longer cancels. Here pairing takes
    about 20% away, with a deviation of 4 points from one pair of systems to the next."""
    shares = []
    for seed in range(10):
        draw = np.random.default_rng(seed)
        a, b = accuracies(draw)
        difference, low, high = paired_difference(a, b, rounds=1000)
        others = SystemScores(b.numerators[:, draw.permutation(EXAMPLES)], b.denominators)
        apart, apart_low, apart_high = paired_difference(a, others, rounds=1000)
        assert apart == difference
        assert low < difference < high
        shares.append((high - low) / (apart_high - apart_low))
    assert 0.7 < np.mean(shares) < 0.85


def test_seeds_that_are_shared_cancel_too():
    right = (np.random.default_rng(0).random((4, 500)) < np.array([[0.5], [0.6], [0.7], [0.8]])).astype(float)
    a, b = SystemScores(right, np.ones_like(right)), SystemScores(right, np.ones_like(right))
    assert paired_difference(a, b, rounds=500, same_seeds=True) == (0, 0, 0)
    _, low, high = paired_difference(a, b, rounds=500)
    assert low < -0.05 and high > 0.05


def test_of_two_seeds_each_round_draws_one():
    """Values 0.4 and 0.6 against 0.5, the same of every example: the interval is as wide as the seeds are apart."""
    ones = np.ones((2, 40))
    a, b = SystemScores(ones * [[0.4], [0.6]], ones), SystemScores(ones[:1] * 0.5, ones[:1])
    assert paired_difference(a, b, rounds=200) == pytest.approx((0, -0.1, 0.1))


def test_ratios_of_sums_are_taken_in_each_round_by_hand(monkeypatch):
    """Two examples, as entity F1 counts: drawn twice the first, each once, twice the second, or none that counts."""
    a = SystemScores(np.array([[2.0, 0.0]]), np.array([[4.0, 4.0]]))
    b = SystemScores(np.array([[0.0, 0.0]]), np.array([[0.0, 2.0]]))
    draws = iter([np.array([[2.0, 0.0]]), np.ones((1, 1)), np.ones((1, 1))])
    monkeypatch.setattr(paired, "_drawn", lambda *_: next(draws))
    assert paired_difference(a, b, rounds=1) == (0.25, 0.5, 0.5)


def test_the_result_does_not_depend_on_how_much_is_drawn_at_once(monkeypatch):
    a, b = accuracies(np.random.default_rng(3))
    whole = paired_difference(a, b, rounds=100)
    monkeypatch.setattr(paired, "_MOST_DRAWN", 7 * EXAMPLES)
    assert paired_difference(a, b, rounds=100) == whole
    assert paired_difference(a, b, rounds=100, seed=1) != whole


def test_what_cannot_be_paired_is_refused():
    a, b = (SystemScores(np.ones((2, count)), np.ones((2, count))) for count in (3, 4))
    with pytest.raises(ValueError, match="not of the same examples: 3 and 4"):
        paired_difference(a, b)
    one = SystemScores(np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="not of the same seeds: 2 and 1"):
        paired_difference(a, one, same_seeds=True)
    with pytest.raises(ValueError, match="not \\[seeds, examples\\]"):
        SystemScores(np.ones(3), np.ones(3))


# --- in a report ----------------------------------------------------------------------------------------------------


def record(folder, scores):
    """scores: (pack, series, updates, seed, right or wrong of each example)."""
    results, lines = [], []
    for pack, series, updates, seed, right in scores:
        method = "standard" if series == "standard" else "mini"
        learned = None if series is None else Learned(series, method, updates, flops=updates * 10.0)
        values = {"accuracy": sum(right) / len(right)}
        entry = Result("t", "de", "accuracy", values, len(right), f"m{seed}", pack, seed, "test", learned).entry()
        results.append(entry | {"made_from": {"model": f"{seed}", "pack": pack, "data": "d"}})
        kept = {key: value for key, value in results[-1].items() if key not in ("accuracy", "n", "learned")}
        lines.append(json.dumps(kept | {"numerators": right}) + "\n")
    (folder / "recipe.yaml").write_text("model: {source_language: en}\n")
    (folder / "results.json").write_text(json.dumps(results))
    (folder / FILE).write_text("".join(lines))
    return read_evaluation(folder)


def test_a_report_compares_the_last_packs_and_the_reference_lines(tmp_path):
    half, all_right, none = [1, 0] * 30, [1] * 60, [0] * 60
    one = record(
        tmp_path,
        [
            *((f"mini/de-{updates}", "mini", updates, seed, right) for seed in (0, 1) for updates, right in
              ((0, none), (20, all_right))),
            *(("standard/de-9", "standard", 9, seed, half) for seed in (0, 1)),
            ("surface", None, 0, None, half),
            ("in-language", None, 0, None, half),
        ],
    )  # fmt: skip
    section = differences_section(one)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "| t |" in line]
    low, high = rows[0][5:7]
    assert rows == [
        ["t", "de", "mini", "standard", "+50.0", low, high, "2"],
        ["t", "de", "mini", "surface", "+50.0", rows[1][5], rows[1][6], "2 and 1"],
        ["t", "de", "mini", "in-language", "+50.0", rows[2][5], rows[2][6], "2 and 1"],
        ["t", "de", "standard", "surface", "+0.0", "+0.0", "+0.0", "2 and 1"],
        ["t", "de", "standard", "in-language", "+0.0", "+0.0", "+0.0", "2 and 1"],
    ]
    # Of 60 examples on which they differ or not: 50 points, with a deviation of 50 / sqrt(60).
    assert float(low) == pytest.approx(50 - 1.96 * 50 / math.sqrt(60), abs=1.5)
    assert float(high) == pytest.approx(50 + 1.96 * 50 / math.sqrt(60), abs=1.5)


def test_the_reports_first_sentence_has_this_interval(tmp_path):
    half, all_right, none = [1, 0] * 30, [1] * 60, [0] * 60
    scores = [
        (f"{series}/de-{updates}", series, updates, seed, right)
        for series, last in (("mini", all_right), ("standard", half))
        for seed in (0, 1)
        for updates, right in ((0, none), (20, last))
    ]
    one = record(tmp_path, scores)
    (row,) = (line.split("|") for line in differences_section(one).splitlines() if "| t |" in line)
    low, high = row[6].strip(), row[7].strip()
    words = result_in_words([one])
    assert f"the difference of 50.0 points is more than chance (95% interval: {low} to {high}).**" in words
    assert "took 1.0 times less compute; it reaches 95%" in words
    (tmp_path / FILE).unlink()
    assert "the difference of 50.0 points is more than chance (60 examples: up to 12.7)" in result_in_words([one])


def test_without_scores_there_is_no_such_section(tmp_path):
    one = record(tmp_path, [("a", "a", 1, 0, [1, 0]), ("b", "b", 1, 0, [1, 1])])
    assert "differences" in differences_section(one)
    (tmp_path / FILE).unlink()
    assert differences_section(one) == ""


@pytest.mark.parametrize("other", [("b", "b", 1, 0, [1, 1, 1]), ("a", "a", 1, 1, [1, 1, 1])])
def test_other_examples_are_refused(tmp_path, other):
    one = record(tmp_path, [("a", "a", 1, 0, [1, 0]), ("c", "c", 1, 0, [1, 0]), other])
    with pytest.raises(UserError, match=r"t in 'de', .*launch/evaluate.py again"):
        differences_section(one)

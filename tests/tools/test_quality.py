"""Quality against compute by hand-computed cases."""

import math
from dataclasses import replace

import pytest

from megamini.commands.reporting.evaluation import evaluation_section, interval, read_evaluation
from megamini.commands.reporting.quality import average_speed_up, cost_to_reach, curves, reached
from megamini.commands.reporting.speed import speed_section
from megamini.commands.reporting.summary import result_in_words
from megamini.downstream.results import Learned, Result, means, write_results

# Updates -> accuracy; an update over the whole model costs 100 FLOPs and 2 seconds, over the mini-model 40 and 1.
STANDARD = {0: 0.2, 10: 0.4, 20: 0.6}
MINI = {0: 0.2, 10: 0.5, 20: 0.595}
COSTS = {"standard": (100.0, 2.0), "mini": (40.0, 1.0)}


def result(language, series, method, updates, value, seed, task="topics", metric="accuracy"):
    flops, seconds = COSTS[method]
    learned = Learned(series, method, updates, updates * 64, updates * flops, updates * seconds)
    name = f"{series}/{language}-step-{updates:08d}"
    return Result(task, language, metric, {metric: value}, 200, "m", name, seed, "test", learned)


@pytest.fixture
def record(tmp_path):
    results = [
        result(language, method, method, updates, value + shift, seed)
        for language in ("de", "es")
        for method, points in (("standard", STANDARD), ("mini", MINI))
        for updates, value in points.items()
        for seed, shift in ((0, -0.01), (1, 0.01))
    ]
    results.append(Result("topics", "en", "accuracy", {"accuracy": 0.9}, 200, "m", None, 0, "test"))
    results.append(Result("topics", "de", "accuracy", {"accuracy": 0.45}, 200, "tf-idf", "surface", None, "test"))
    (tmp_path / "recipe.yaml").write_text("model: {source_language: en}\n")
    write_results(tmp_path, results, "")
    return read_evaluation(tmp_path)


def test_results_read_back_the_same(record, tmp_path):
    write_results(tmp_path, record.results, "")
    assert read_evaluation(tmp_path).results == record.results


@pytest.mark.parametrize(
    ("target", "sign", "cost"),
    [(0.2, 1, 0), (0.3, 1, 5), (0.4, 1, 10), (0.5, 1, 15), (0.61, 1, None), (0.1, -1, None), (0.25, -1, 0)],
)
def test_cost_to_reach(target, sign, cost):
    points = [(float(updates), value) for updates, value in STANDARD.items()]
    assert cost_to_reach(points, target, sign) == (None if cost is None else pytest.approx(cost))


def test_the_first_crossing_counts():
    assert cost_to_reach([(0, 0.0), (1, 0.6), (2, 0.4), (3, 0.8)], 0.5) == pytest.approx(0.5 / 0.6)


def test_speed_up_by_hand(record):
    rows = {(row.curve.series, row.curve.language, row.share): row for row in reached(curves([record]))}
    assert len(rows) == 2 * 2 * 3
    # Standard gains 0.4 over the untrained pack; 90% of it is at 0.56: 18 updates there, and here 10 + 10 * 6 / 9.5.
    mini = rows["mini", "de", 0.9]
    assert mini.target == pytest.approx(0.56)
    own = 10 + 10 * 0.06 / 0.095
    assert mini.costs["flops"] == pytest.approx(own * 40)
    assert mini.speed_up == pytest.approx({"flops": 1800 / (own * 40), "seconds": 36 / own})
    assert rows["standard", "es", 0.9].speed_up == {"flops": 1.0, "seconds": 1.0}
    assert rows["mini", "de", 0.99].speed_up["flops"] is None, "0.595 is below 0.596"


def test_a_series_that_is_there_at_once(record):
    """Where a better start already has what standard ends with, no learning was needed at all."""
    record.results[:] = [
        result("de", series, method, updates, value, 0)
        for series, method, points in (("standard", "standard", STANDARD), ("better", "mini", {0: 0.7, 10: 0.8}))
        for updates, value in points.items()
    ]
    rows = {(row.curve.series, row.share): row for row in reached(curves([record]))}
    assert rows["better", 0.99].costs["flops"] == 0
    assert rows["better", 0.99].speed_up["flops"] == math.inf


def test_the_reference_is_chosen_by_name(record):
    other = [result("de", "other", "standard", updates, value + 0.1, 0) for updates, value in STANDARD.items()]
    record.results.extend(other)
    targets = {
        name: next(row.target for row in reached(curves([record]), name) if row.curve.language == "de")
        for name in ("standard", "other")
    }
    assert targets["other"] == pytest.approx(targets["standard"] + 0.1)


def test_averages_are_geometric_and_need_every_language(record):
    rows = [row for row in reached(curves([record])) if row.curve.series == "mini"]
    at_90 = [row for row in rows if row.share == 0.9]
    assert average_speed_up(at_90, "flops") == pytest.approx(at_90[0].speed_up["flops"])
    assert average_speed_up([row for row in rows if row.share == 0.99], "flops") is None


def test_of_bits_per_byte_less_is_better(record):
    bits = [
        result("de", method, method, updates, value, 0, "bits_per_byte", "bits_per_byte")
        for method, points in (("standard", {0: 2.0, 10: 1.0}), ("mini", {0: 2.0, 10: 0.9}))
        for updates, value in points.items()
    ]
    record.results[:] = bits
    found = {row.curve.series: row for row in reached(curves([record])) if row.share == 0.9}
    assert found["standard"].target == pytest.approx(1.1)
    assert found["mini"].costs["flops"] == pytest.approx(40 * 10 * 0.9 / 1.1)


def test_series_of_one_name_in_two_evaluations_stay_apart(record, tmp_path):
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "recipe.yaml").write_text("model: {source_language: en}\n")
    write_results(tmp_path / "again", record.results, "")
    names = {curve.series for curve in curves([record, read_evaluation(tmp_path / "again")])}
    assert names == {f"{run}: {series}" for run in (tmp_path.name, "again") for series in ("standard", "mini")}


def test_no_gain_has_no_share(record):
    record.results[:] = [result("de", "standard", "standard", updates, 0.5, 0) for updates in (0, 10)]
    assert reached(curves([record])) == []


def test_interval_is_wilsons(record):
    (source,) = [mean for mean in means(record.results) if mean.language == "en"]
    low, high = interval(source)
    n, p, z = 200, 0.9, 1.959963984540054
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (low, high) == pytest.approx(((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)))


def test_sections_say_it_in_tables_and_plots(record, tmp_path):
    table = evaluation_section(record)
    assert "| de (mini) | 59.5 ± 1.4 [" in table
    assert "| de (mini, 0 updates) | 20.0 ± 1.4 [" in table
    assert "| de (surface) | 45.0 [" in table
    section = speed_section([record], tmp_path)
    assert (tmp_path / "topics-de.png").stat().st_size > 10_000
    assert "![topics in es against compute](topics-es.png)" in section
    assert "| mini | average | 90% | " in section
    assert speed_section([], tmp_path) == ""


def test_the_result_in_two_sentences(record):
    """By hand: 1.96 x sqrt((0.595 x 0.405 + 0.6 x 0.4) / 200) = 9.6 points; 2,000 over 800 FLOPs; 95% of the gain is
    at 0.58, which mini crosses at (10 + 10 x 0.08 / 0.095) x 40 FLOPs, standard at 19 x 100."""
    assert result_in_words([record]) == (
        "**Zero-shot accuracy on topics in the mean of de, es is 59.5% over the mini-model and 60.0% over the whole "
        "model; the difference of 0.5 points may be chance (200 examples: up to 9.6).** Learning over the mini-model "
        "took 2.5 times less compute; it reaches 95% of standard adaptation's best gain with 2.6 times less."
    )


def of(record, **values):
    """A record whose final accuracies, by method, are others."""
    changed = [
        replace(one, values={"accuracy": values[one.learned.method]})
        if one.learned and one.learned.updates == 20
        else one
        for one in record.results
    ]
    return replace(record, results=changed)


def test_what_is_more_than_chance_and_what_is_not_reached_are_said(record):
    words = result_in_words([of(record, mini=0.45, standard=0.7)])
    assert "the difference of 25.0 points is more than chance (200 examples: up to 9.4)" in words
    assert "it does not reach 95% of standard adaptation's best gain" in words


def test_where_standard_gains_nothing_there_is_no_share_of_it(record):
    poor = replace(record, results=[one for one in of(record, mini=0.3, standard=0.1).results if _no_middle(one)])
    assert "standard adaptation itself gains nothing" in result_in_words([poor])


def _no_middle(one):
    return one.learned is None or one.learned.updates != 10


def test_without_both_methods_nothing_is_said(record):
    alone = [one for one in record.results if one.learned is None or one.learned.method == "mini"]
    assert result_in_words([replace(record, results=alone)]) == ""
    assert result_in_words([]) == ""

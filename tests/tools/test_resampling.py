"""Needs and speed-ups of all resamplings at once, against the naive reading of one curve."""

import math

import numpy as np
import pytest

from megamini.commands.reporting.quality import cost_to_reach
from megamini.downstream.results import Learned, Result
from tools.study.resampling import Curves, Draws, Measured, mean_of, measured_on, need, speed_up, target_of
from tools.study.speeds import Speed, _geometric, _speed


def curves(*values, flops=1.0):
    rows = np.array(values, dtype=float)
    updates = np.arange(rows.shape[1]) * 10
    return Curves(rows, updates, {"flops": (updates * flops)[None], "seconds": updates[None]})


def test_needs_are_those_of_the_naive_reading():
    """On random curves that rise and fall, with targets above and below all of them."""
    generator = np.random.default_rng(0)
    own = Curves(generator.random((500, 7)), np.arange(7), {"flops": np.cumsum(generator.random((1, 7)), 1)})
    target = generator.random(500) * 1.2
    found = need(own, "flops", target, from_first_pack=False)
    for values, wanted, cost in zip(own.values, target, found, strict=True):
        naive = cost_to_reach(list(zip(own.costs["flops"][0], values, strict=True)), wanted)
        assert cost == (math.inf if naive is None else pytest.approx(naive))
    assert np.isinf(found).any() and (found == own.costs["flops"][0, 0]).any()


@pytest.mark.parametrize(
    ("values", "target", "lines", "first_pack"),
    [
        ([0.2, 0.4, 0.6], 0.2, 0, 0),  # the untrained pack is there
        ([0.2, 0.4, 0.6], 0.3, 5, 10),  # between it and the first one learned: nobody looked
        ([0.2, 0.4, 0.6], 0.5, 15, 15),
        ([0.2, 0.6, 0.4], 0.6, 10, 10),
        ([0.2, 0.4, 0.6], 0.7, math.inf, math.inf),
    ],
)
def test_the_first_stretch_is_not_read_off(values, target, lines, first_pack):
    for expected, from_first_pack in ((lines, False), (first_pack, True)):
        assert need(curves(values), "flops", np.array([target]), from_first_pack) == pytest.approx(expected)


def test_speed_ups_by_hand():
    standard = curves([0.2, 0.4, 0.6], [0.2, 0.4, 0.6], [0.2, 0.4, 0.6], [0.5, 0.4, 0.4], flops=100.0)
    own = curves([0.2, 0.5, 0.6], [0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.5, 0.6, 0.7], flops=40.0)
    assert target_of(standard, 0.9)[:3] == pytest.approx([0.56] * 3) and np.isnan(target_of(standard, 0.9)[3])
    # Standard needs 18 updates of 100; its own are 10 + 10 * 6 / 10 of 40.
    found = speed_up(own, standard, "flops", 0.9)
    assert found[0] == pytest.approx(1800 / 640)
    assert np.isinf(found[1]) and found[2] == 0 and np.isnan(found[3])


def test_draws_are_weights_alike_for_all_who_ask_for_the_same():
    draws = Draws(1000)
    weights = draws.of("models", 3)
    assert weights.shape == (1000, 3) and np.allclose(weights.sum(1), 1)
    assert (draws.of("models", 3) == weights).all() and (draws.of("others", 3) != weights).any()
    assert weights.mean(0) == pytest.approx([1 / 3] * 3, abs=0.02)
    assert set(np.round(weights.ravel() * 3)) == {0, 1, 2, 3}
    assert (Draws(None).of("models", 4) == 0.25).all()


def test_rounds_are_means_over_what_is_drawn():
    values = np.arange(12.0).reshape(2, 3, 2)
    measured = Measured(values, np.array([0, 10]), {"flops": np.array([0.0, 10.0])})
    assert Draws(None).curves(("mini", "de"), measured).values == pytest.approx(values.mean((0, 1))[None])
    draws = Draws(50)
    drawn = draws.curves(("mini", "de"), measured)
    seeds, models = draws.of("seeds of ('mini', 'de')", 2), draws.of("models", 3)
    naive = [
        sum(s[a] * m[b] * values[a, b] for a in range(2) for b in range(3)) for s, m in zip(seeds, models, strict=True)
    ]
    assert drawn.values == pytest.approx(np.array(naive))


def test_the_mean_of_languages_is_at_the_updates_that_all_have():
    german, italian = curves([0.2, 0.5, 0.8]), curves([0.4, 0.7])
    mean = mean_of([german, italian], np.array([[0.5, 0.5]]))
    assert mean.values == pytest.approx(np.array([[0.3, 0.6]])) and list(mean.updates) == [0, 10]
    assert mean_of([german, italian], np.array([[1.0, 0.0]])).values == pytest.approx(german.values[:, :2])
    late = Curves(np.array([[0.5]]), np.array([20]), {"flops": np.array([[20.0]])})
    assert mean_of([german, late], np.array([[0.5, 0.5]])) is None


def test_averages_are_geometric_over_languages_with_a_target():
    found = _geometric([np.array([2.0, 2.0, np.nan, 4.0, np.inf]), np.array([8.0, 0.0, np.nan, np.nan, 2.0])])
    assert found[[0, 1, 3, 4]] == pytest.approx([4.0, 0.0, 4.0, np.inf]) and np.isnan(found[2])
    assert _geometric([np.array([np.inf]), np.array([0.0])]) == 0


@pytest.mark.parametrize(
    ("speed", "shown"),
    [
        (Speed(3.914, False, 0.0, 6.3, 0.949, 0.0), "**3.91** [0, 6.3; 94%]"),
        (Speed(9.46, True, 8.2, math.inf, 1.0, 0.0), "**≥ 9.46** [8.2, ∞]"),
        (Speed(math.inf, False, math.inf, math.inf, 1.0, 0.0), "**at once**"),
        (Speed(math.inf, False, 0.0, math.inf, 0.9996, 0.26), "**at once** [0, ∞; 99%; no target in 26%]"),
        (Speed(0.0, False, 0.0, 2.0, 0.37, 0.0), "- (37%)"),
        (Speed(math.nan, False, 0.0, 2.0, 0.37, 0.6), "no target"),
    ],
)
def test_speeds_as_the_page_shows_them(speed, shown):
    assert str(speed) == shown


def test_rounds_without_a_target_count_apart():
    drawn = np.array([np.nan] * 25 + [0.0] * 15 + [2.0] * 60)
    speed = _speed(np.array([2.0]), drawn, False)
    assert (speed.reaching, speed.without, speed.low, speed.high) == (0.8, 0.25, 0.0, 2.0)


def test_what_was_not_measured_with_every_model_is_no_curve():
    def result(model, updates):
        learned = Learned("mini", "mini", updates, updates, updates, updates)
        return Result("t", "de", "accuracy", {"accuracy": 0.5}, 10, "m", "p", (0, model), "test", learned)

    whole = [result(model, updates) for model in (0, 1) for updates in (0, 10)]
    assert measured_on("t", whole)["mini", "de"].values.shape == (1, 2, 2)
    assert measured_on("t", [one for one in whole if one.learned.updates]) == {}, "no untrained pack"
    with pytest.raises(ValueError, match="not every pack"):
        measured_on("t", whole[:-1])

"""The learning rate at each update, in numbers worked out by hand, and stretches that do not fit."""

import pytest

from megamini.config import ScheduleSection
from megamini.errors import UserError
from megamini.training.schedule import build_schedule


def schedule(**section):
    return build_schedule(ScheduleSection(**section), peak=2.0, tokens_per_update=1000)


def rates(built, *updates):
    return [built.learning_rate(update) for update in updates]


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_warm_up_rises_from_the_first_update_to_the_peak(shape):
    built = schedule(shape=shape, duration="100 updates", warmup="10 updates")
    assert rates(built, 0, 4, 9, 10) == pytest.approx([0.2, 1.0, 2.0, 2.0])


def test_linear_falls_to_the_final_share():
    built = schedule(duration="110 updates", warmup="10 updates")
    assert rates(built, 10, 35, 60, 109, 110) == pytest.approx([2.0, 1.5, 1.0, 0.02, 0.0])
    built = schedule(duration="110 updates", warmup="10 updates", final_share=0.1)
    assert rates(built, 60, 110) == pytest.approx([1.1, 0.2])


def test_cosine_is_flat_at_both_ends():
    built = schedule(shape="cosine", duration="110 updates", warmup="10 updates", final_share=0.1)
    assert rates(built, 10, 60, 110) == pytest.approx([2.0, 1.1, 0.2])
    assert rates(built, 35) == pytest.approx([0.2 + 1.8 * (1 + 0.5**0.5) / 2])


def test_warmup_stable_decay_holds_the_peak():
    built = schedule(
        shape="warmup-stable-decay", duration="100 updates", warmup="10 updates", decay="20 updates", final_share=0.5
    )
    assert rates(built, 9, 10, 50, 80) == [2.0] * 4
    assert rates(built, 90, 100) == pytest.approx([1.5, 1.0])


def test_stretches_in_tokens_and_in_updates_are_the_same():
    in_tokens = schedule(duration="110k tokens", warmup="9.5k tokens")
    in_updates = schedule(duration="110 updates", warmup="10 updates")
    assert in_tokens == in_updates


def test_no_warm_up_and_nothing_but_warm_up():
    assert rates(schedule(duration="10 updates", warmup="0 updates"), 0, 5) == pytest.approx([2.0, 1.0])
    assert rates(schedule(duration="10 updates", warmup="10 updates"), 4, 9, 10) == pytest.approx([1.0, 2.0, 2.0])


def test_the_rate_never_leaves_its_bounds():
    for shape, decay in (("linear", None), ("cosine", None), ("warmup-stable-decay", "7 updates")):
        built = schedule(shape=shape, duration="50 updates", warmup="3 updates", decay=decay, final_share=0.1)
        fall = rates(built, *range(3, 60))
        assert fall == sorted(fall, reverse=True)
        assert max(fall) == 2.0 and min(fall) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "section, expected",
    [
        ({"duration": "0 updates", "warmup": "0 updates"}, "schedule.duration: a run needs at least 1 update"),
        (
            {"duration": "10 updates", "warmup": "11 updates"},
            "11 updates is longer than the run of 10",
        ),
        (
            {"shape": "warmup-stable-decay", "duration": "10 updates", "warmup": "6 updates", "decay": "5k tokens"},
            "than the run of 10 updates",
        ),
    ],
)
def test_stretches_that_do_not_fit(section, expected):
    with pytest.raises(UserError, match=expected):
        schedule(**section)

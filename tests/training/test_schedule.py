"""Learning rate and mask share at each update, in numbers worked out by hand, and stretches that do not fit."""

import pytest

from megamini.errors import UserError
from megamini.recipes.objective import MaskingSection
from megamini.recipes.optimizer import ScheduleSection
from megamini.training.schedule import build_mask_schedule, build_schedule, check_mask_stages


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


def masks(stages, block_length=100, global_batch=10):
    return build_mask_schedule(MaskingSection(mask_share=stages), block_length, global_batch)


THREE = [{"share": 0.4, "until": "5 updates"}, {"share": 0.2, "until": "7001 tokens"}, {"share": 0.1}]


def test_the_mask_share_is_that_of_the_batchs_stage():
    built = masks(THREE)
    assert [built.share(batch) for batch in (0, 4, 5, 7, 8, 10**12)] == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
    assert [built.masked(batch) for batch in (4, 5, 8)] == [39, 20, 10]
    assert (built.last_share, built.most_masked) == (0.1, 39)
    assert masks([THREE[2] | {"until": "3 updates"}, {"share": 0.2}]).most_masked == 20
    assert built.along(20) == [(5, 39), (3, 20), (12, 10)]
    assert built.along(6) == [(5, 39), (1, 20), (0, 10)]
    assert built.along(3) == [(3, 39), (0, 20), (0, 10)]


def test_one_share_is_one_stage():
    built = masks(0.3)
    assert built.along(7) == [(7, 29)]
    assert (built.share(0), built.share(10**12), built.last_share, built.most_masked) == (0.3, 0.3, 0.3, 29)
    check_mask_stages(built, 1)


@pytest.mark.parametrize(
    "stages, expected",
    [
        ([{"share": 0.4, "until": "0 updates"}, {"share": 0.1}], "share 0.4 until 0 updates is empty"),
        (
            [{"share": 0.4, "until": "7 updates"}, {"share": 0.2, "until": "7k tokens"}, {"share": 0.1}],
            "share 0.2 until 7k tokens is empty: that is after 7 updates, and it begins after 7",
        ),
        (
            [{"share": 0.4, "until": "9k tokens"}, {"share": 0.2, "until": "5 updates"}, {"share": 0.1}],
            "share 0.2 until 5 updates is empty: that is after 5 updates, and it begins after 9",
        ),
        (
            [{"share": 0.4, "until": "6001 tokens"}, {"share": 0.2, "until": "7k tokens"}, {"share": 0.1}],
            "share 0.2 until 7k tokens is empty",
        ),
    ],
)
def test_stages_without_a_batch_are_refused(stages, expected):
    with pytest.raises(UserError, match=f"^objective.mask_share: the stage of {expected}"):
        masks(stages)


def test_a_run_must_reach_its_last_stage():
    check_mask_stages(masks(THREE), 9)
    for updates, words in ((8, "share 0.2 ends after 8 updates, and the run after 8"), (4, "share 0.4 ends after 5")):
        with pytest.raises(UserError, match=f"^objective.mask_share: the stage of {words}"):
            check_mask_stages(masks(THREE), updates)

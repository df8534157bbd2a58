"""What counts as a loss spike, by hand."""

from megamini.training.safety.spikes import SpikeRule
from megamini.training.state.train_state import TrainState

RULE = SpikeRule(above=0.5, window=4, most_roll_backs=1)


def said(losses: list[float]) -> list[str | None]:
    state, found = TrainState(batches_left_out=3), []
    for loss in losses:
        state.update += 1
        found.append(RULE.detect(state, loss))
    return found


def test_a_spike_is_far_above_the_median_of_a_full_window():
    assert said([9.0, 1.0, 8.0, 7.0, 1.0]) == [None] * 5, "the window fills first"
    *before, spike, after = said([2.0, 2.1, 2.0, 1.9, 2.51, 2.4])
    assert before == [None] * 4
    assert spike == (
        "update 5: loss 2.510 is a spike, 0.510 nats above the median of the last 4; its blocks are global batch 7"
    )
    assert after is None, "a spike does not raise what is usual"


def test_cases_nothing_is_a_spike_in_the_warm_up():
    """The loss of a small run that falls, and rises with the learning rate: its losses are what is usual behind it."""
    losses = [6.0, 4.0, 4.0, 4.0, 4.0, 5.0, 5.1, 5.2, 5.1, 5.1, 5.7]
    at = [number for number, said_of in enumerate(said(losses), start=1) if said_of]
    assert at == [6, 7, 8, 9, 10, 11], "without a warm-up, the first spike makes spikes of all that follow"
    rule, state, found = SpikeRule(0.5, 4, 1, warmup=9), TrainState(), []
    for loss in losses:
        state.update += 1
        found += [state.update] if rule.detect(state, loss) else []
    assert found == [11]


def test_the_window_moves():
    assert said([5.0] * 4 + [4.0] * 4 + [4.6])[-1] is not None
    assert said([5.0] * 4 + [4.6])[-1] is None


def test_a_run_goes_back_so_often_and_no_more():
    assert RULE.rolls_back(TrainState())
    assert not RULE.rolls_back(TrainState(roll_backs=1))

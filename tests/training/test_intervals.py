"""Intervals in updates, worked out by hand, from durations in updates and in tokens."""

from types import SimpleNamespace

import pytest

from megamini.errors import UserError
from megamini.training.intervals import Intervals, resolve_intervals


def resolved(validate=None, every=None, keep_every=None, pack_every=None):
    checkpoint = SimpleNamespace(every=every, keep_every=keep_every)
    recipe = SimpleNamespace(checkpoint=checkpoint, telemetry=SimpleNamespace(validate_every=validate))
    return resolve_intervals(recipe, 1000, pack_every)


def test_tokens_become_whole_updates_and_at_least_one():
    assert resolved() == Intervals(None, None, None, None)
    assert resolved("10k tokens", "1.5k tokens", "4 updates", "10 tokens") == Intervals(10, 2, 4, 1)
    assert resolved(pack_every="0 updates").pack == 1


@pytest.mark.parametrize(("every", "said"), [(None, "unset"), ("3 updates", "3")])
def test_checkpoints_to_keep_that_would_never_be_written_are_refused(every, said):
    with pytest.raises(UserError, match=rf"keep_every: 10 updates is no multiple of checkpoint.every \({said}\)"):
        resolved(every=every, keep_every="10k tokens")

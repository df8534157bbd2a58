"""Active forgetting: when, and what the embeddings start from."""

import pytest
import torch

from megamini.recipes.objective import ForgettingSection
from megamini.training.forgetting import build_forgetting, fresh_token_embeddings


def due(every, none_in_last, updates=20):
    section = ForgettingSection(every=every, none_in_last=none_in_last)
    forgetting = build_forgetting(section, 1000, updates, seed=0, pad_id=1, standard_deviation=0.02)
    return [done for done in range(updates + 1) if forgetting.is_due(done)]


@pytest.mark.parametrize(
    "every, none_in_last, expected",
    [
        ("5 updates", "4 updates", [5, 10, 15]),
        ("5 updates", "5 updates", [5, 10, 15]),
        ("5 updates", "6 updates", [5, 10]),
        ("5k tokens", "6k tokens", [5, 10]),
        ("5 updates", "0 updates", [5, 10, 15]),  # never right at the end: the embeddings would stay random
        ("0 updates", "17 updates", [1, 2, 3]),
        ("5 updates", "20 updates", []),
        ("30 updates", "1 updates", []),
    ],
)
def test_after_which_updates(every, none_in_last, expected):
    assert due(every, none_in_last) == expected


def test_a_recipe_without_it_never_forgets():
    assert build_forgetting(None, 1000, 20, seed=0, pad_id=1, standard_deviation=0.02) is None


def test_fresh_embeddings_are_normal_with_a_zero_pad_row():
    matrix = fresh_token_embeddings((2000, 64), 0.02, pad_id=3, seed=1, updates_done=10)
    assert matrix.dtype == torch.float32 and matrix.shape == (2000, 64)
    assert (matrix[3] == 0).all() and (matrix[[2, 4]] != 0).any(1).all()
    rest = torch.cat([matrix[:3], matrix[4:]])
    assert rest.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(rest.mean().item()) < 5 * 0.02 / rest.numel() ** 0.5
    assert ((rest / 0.02) ** 4).mean().item() == pytest.approx(3, rel=0.1)  # a normal's fourth moment


def test_each_time_and_seed_draws_its_own_and_the_same_again():
    def draw(seed, updates_done):
        return fresh_token_embeddings((50, 8), 0.02, 1, seed, updates_done)

    torch.manual_seed(9)
    before = torch.get_rng_state()
    one = draw(0, 10)
    assert torch.equal(before, torch.get_rng_state()), "dropout's generator is left alone"
    torch.manual_seed(8)
    assert torch.equal(one, draw(0, 10))
    assert not torch.equal(one, draw(0, 20)) and not torch.equal(one, draw(1, 10))

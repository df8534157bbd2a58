"""What a run directory says of how the run was trained."""

import json
from pathlib import Path

import pytest

from megamini.recipes.recipe import Recipe, load_recipe
from megamini.training.checkpoints.record import adopt_recipe, write_recipe
from megamini.training.state.train_state import TrainState

QUICKSTART = Path(__file__).parents[3] / "launch/recipes/quickstart/pretrain.yaml"
AT_FIRST = ("optimizer.learning_rate=1e-3", "schedule.duration=100 updates", "schedule.warmup=10 updates")


@pytest.fixture
def recipe(tmp_path):
    def changed(*overrides: str) -> Recipe:
        made = load_recipe(QUICKSTART, [f"training.runs={tmp_path / 'runs'}", *AT_FIRST, *overrides])
        made.run_directory.mkdir(parents=True, exist_ok=True)
        return made

    return changed


def saved(state: TrainState, update: int) -> TrainState:
    """As a checkpoint of that update brings it back."""
    state.update = update
    return TrainState.from_state_dict(json.loads(json.dumps(state.state_dict())))


def test_a_change_is_said_once_and_kept(recipe):
    state = TrainState()
    assert adopt_recipe(recipe(), state, over=False) == ""
    state = saved(state, 40)
    change = "optimizer.learning_rate: 0.001 -> 0.002; schedule.duration: 100 updates -> 60 updates"
    faster = recipe("optimizer.learning_rate=0.002", "schedule.duration=60 updates")
    assert adopt_recipe(faster, state, over=False) == change
    state = saved(state, 50)
    assert adopt_recipe(faster, state, over=False) == ""
    assert state.changes == [f"after update 40: {change}"]
    assert state.recipe == faster.model_dump(mode="json")


def test_a_change_under_which_nothing_was_saved_leaves_no_trace(recipe):
    """Killed before its first checkpoint: the next session starts from the same one."""
    state = TrainState()
    adopt_recipe(recipe(), state, over=False)
    checkpoint = saved(state, 40)
    adopt_recipe(recipe("optimizer.learning_rate=0.9"), saved(checkpoint, 40), over=False)
    again = saved(checkpoint, 40)
    assert adopt_recipe(recipe(), again, over=False) == ""
    assert again.changes == []


def test_a_run_that_is_over_keeps_its_recipe_and_learns_where_things_lie(recipe):
    state = TrainState()
    adopt_recipe(recipe(), state, over=False)
    state = saved(state, 100)
    asked = recipe("optimizer.learning_rate=0.9", "data.path=elsewhere/x", "name=moved")
    assert adopt_recipe(asked, state, over=True) == "optimizer.learning_rate: 0.001 -> 0.9"
    write_recipe(asked, state)
    written = load_recipe(asked.run_directory / "recipe.yaml")
    assert written.optimizer.learning_rate == 0.001
    assert (written.name, written.data.path, written.training.runs) == ("moved", "elsewhere/x", asked.training.runs)
    assert state.changes == []


def test_a_checkpoint_of_another_version(recipe):
    """Without a recipe; with a key that is unknown by now, and without one that came since."""
    begun = recipe()
    asked, change = recipe("optimizer.learning_rate=0.9"), "optimizer.learning_rate: 0.001 -> 0.9"
    state = TrainState(update=100)
    (begun.run_directory / "recipe.yaml").write_bytes(b"torn\xff")
    assert adopt_recipe(begun, state, over=True) == ""
    assert state.recipe == begun.model_dump(mode="json")
    write_recipe(begun, state)
    state = TrainState(update=100)
    assert adopt_recipe(asked, state, over=True) == change
    assert state.recipe == begun.model_dump(mode="json")
    state.recipe["optimizer"]["gone"] = 1
    del state.recipe["optimizer"]["eps"]
    assert adopt_recipe(asked, state, over=True) == change
    assert state.recipe == begun.model_dump(mode="json")


def test_what_is_logged_and_kept_is_no_change(recipe):
    state = TrainState()
    adopt_recipe(recipe(), state, over=False)
    state = saved(state, 40)
    asked = recipe("data.workers=0", "telemetry.every=5", "checkpoint.every=5 updates", "training.hang_minutes=60")
    assert adopt_recipe(asked, state, over=False) == ""
    assert state.recipe == asked.model_dump(mode="json")

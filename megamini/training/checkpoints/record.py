"""With which recipe a run was trained: that of its checkpoint, and not always the one asked for last."""

from collections.abc import Iterator
from typing import Any

import yaml

from megamini.files import write_atomically
from megamini.recipes.file import as_yaml
from megamini.recipes.recipe import RunRecipe
from megamini.training.state.train_state import TrainState

# Keys, or whole sections, that make no other training: where things lie (what lies there is checked by its content,
# megamini/training/checkpoints/identity.py), and what is logged and kept.
_FREE = frozenset(
    {
        "name",
        "training.runs",
        "training.hang_minutes",
        "training.profile",
        "data.path",
        "data.workers",
        "model.from_checkpoint",
        "adaptation.source",
        "adaptation.primary",
        "adaptation.lexicon",
        "adaptation.pack",
        "checkpoint",
        "telemetry",
    }
)


def adopt_recipe(recipe: RunRecipe, state: TrainState, over: bool) -> str:
    """Let `state` go on under `recipe`; the values in which that makes another training, as text, empty for none.

    A run that is over has nothing left to train: it keeps its own recipe, but for what is free to change.
    """
    asked = recipe.model_dump(mode="json")
    if state.update and state.recipe is None:  # a checkpoint of an earlier version
        state.recipe = _in_directory(recipe)
    changes = "; ".join(_changes(state.recipe, asked))
    if over and state.recipe is not None:
        state.recipe = _kept(state.recipe, asked)
        return changes
    if changes:
        state.changes.append(f"after update {state.update}: {changes}")
    state.recipe = asked
    return changes


def write_recipe(recipe: RunRecipe, state: TrainState) -> None:
    """Rank 0 only: `recipe.yaml` of the run directory, as `state` has it."""
    write_atomically(recipe.run_directory / "recipe.yaml", as_yaml(state.recipe))


def _in_directory(recipe: RunRecipe) -> dict[str, Any] | None:
    """The recipe that the run directory has; None where it has none, or a torn one."""
    try:
        values = yaml.safe_load((recipe.run_directory / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return values if isinstance(values, dict) else None


def _changes(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """`section.key: before -> now` of each value that both have, but for what is free to change."""
    if key in _FREE:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for name in (name for name in before if name in now):
            yield from _changes(before[name], now[name], f"{key}.{name}".lstrip("."))
    elif key and before != now:
        yield f"{key}: {before} -> {now}"


def _kept(before: Any, now: Any, key: str = "") -> Any:
    """`before` with the keys of `now`, which may be of another version, and its values of what is free to change."""
    if key in _FREE:
        return now
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            name: _kept(before[name], value, f"{key}.{name}".lstrip(".")) if name in before else value
            for name, value in now.items()
        }
    return before

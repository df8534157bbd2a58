"""With which recipe a run was trained: that of its checkpoint, and not always the one asked for last."""

import copy
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import ValidationError

from megamini.config import RunRecipe
from megamini.training.state import TrainState
from megamini.training.telemetry import write_atomically

_PLACES = (  # where things lie; what lies there is checked by its content (megamini/training/identity.py)
    "name",
    "training.runs",
    "data.path",
    "adaptation.source",
    "adaptation.primary",
    "adaptation.lexicon",
    "adaptation.pack",
)


def take_on(recipe: RunRecipe, state: TrainState, over: bool) -> str:
    """Let `state` go on under `recipe`; the values in which that changes the run, as text, empty for none.

    A run that is over has nothing left to train: it keeps its own, and learns only where things lie now.
    """
    asked = recipe.model_dump(mode="json")
    changes = "; ".join(_changes(state.recipe, asked))
    if over and state.recipe is not None:
        state.recipe = _with_places_of(asked, state.recipe)
        if not _is_valid(state.recipe, recipe):  # of a version that had other keys
            state.recipe = asked
        return changes
    if changes:
        state.changes.append(f"after update {state.update}: {changes}")
    state.recipe = asked
    return changes


def write_recipe(recipe: RunRecipe, state: TrainState) -> None:
    """Rank 0 only: `recipe.yaml` of the run directory, as `state` has it."""
    text = yaml.safe_dump(state.recipe, sort_keys=False, allow_unicode=True)
    write_atomically(recipe.run_directory / "recipe.yaml", text)


def _changes(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """`section.key: before -> now` of each value that both have, places aside."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in (name for name in before if name in now):
            yield from _changes(before[name], now[name], f"{key}.{name}".lstrip("."))
    elif key and key not in _PLACES and before != now:
        yield f"{key}: {before} -> {now}"


def _with_places_of(other: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(recipe)
    for place in _PLACES:
        *sections, key = place.split(".")
        ours, theirs = merged, other
        for section in sections:
            ours, theirs = ours.get(section, {}), theirs.get(section, {})
        if key in ours and key in theirs:
            ours[key] = theirs[key]
    return merged


def _is_valid(values: dict[str, Any], recipe: RunRecipe) -> bool:
    try:
        type(recipe).model_validate(values)
    except ValidationError:
        return False
    return True

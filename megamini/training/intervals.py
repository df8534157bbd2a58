"""How many updates lie between two validations, checkpoints or packs: a recipe's durations, resolved once."""

from dataclasses import dataclass

from megamini.errors import UserError
from megamini.recipes.recipe import RunRecipe
from megamini.recipes.values import duration_in_updates


@dataclass(frozen=True)
class Intervals:
    """In updates, at least 1; None where the recipe names none."""

    validate: int | None
    save: int | None
    keep: int | None
    """Checkpoints at multiples of it are kept for good."""
    pack: int | None = None
    """Between two language packs of a run that learns them."""


def resolve_intervals(recipe: RunRecipe, tokens_per_update: int, pack_every: str | None = None) -> Intervals:
    """Those of a recipe. Raises `UserError` where checkpoints to be kept for good would hardly ever be written."""
    durations = (recipe.telemetry.validate_every, recipe.checkpoint.every, recipe.checkpoint.keep_every, pack_every)
    validate, save, keep, pack = (
        None if duration is None else duration_in_updates(duration, tokens_per_update) for duration in durations
    )
    if keep and (not save or keep % save):
        raise UserError(
            f"checkpoint.keep_every: {keep} updates is no multiple of checkpoint.every ({save or 'unset'}), so "
            "hardly any checkpoint would be kept; make it one"
        )
    return Intervals(*(None if updates is None else max(1, updates) for updates in (validate, save, keep, pack)))

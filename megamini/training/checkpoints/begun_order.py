"""In which order a run reads its blocks: as it began, where it has begun."""

from megamini.recipes.recipe import RunRecipe
from megamini.recipes.values import BlockOrder
from megamini.training.checkpoints.checkpoint import newest_first
from megamini.training.checkpoints.identity import EARLIER_ORDER
from megamini.training.checkpoints.manifest import read_manifest

_ORDER_OF_NEW_RUNS: BlockOrder = "runs"


def resolve_block_order(recipe: RunRecipe) -> RunRecipe:
    """The recipe with `training.block_order` set. Where the recipe leaves it open, the run's newest checkpoint says."""
    if recipe.training.block_order is not None:
        return recipe
    order = _ORDER_OF_NEW_RUNS
    for checkpoint in newest_first(recipe.run_directory / "checkpoints"):
        manifest, _ = read_manifest(checkpoint)
        if manifest is not None:
            order = manifest["identity"]["training"].get("block_order", EARLIER_ORDER)
            break
    training = recipe.training.model_copy(update={"block_order": order})
    return recipe.model_copy(update={"training": training})

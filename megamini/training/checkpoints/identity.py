"""What decides a resume: the run's identity, settings and data that must be equal to those of the checkpoint."""

import json
from pathlib import Path
from typing import Any

from megamini.errors import UserError
from megamini.models.pretrained import weights_fingerprint
from megamini.recipes.recipe import Recipe, RunRecipe
from megamini.recipes.values import BlockOrder, Section

# Of checkpoints that do not say so, and of the recipes beside them.
EARLIER_ORDER: BlockOrder = "blocks"

# Section and key -> default, of keys that are left out where they are at it, as before there were such keys.
_LEFT_OUT = {("objective", "predict_separators"): True, ("objective", "lora"): None}


def identity_of(recipe: Recipe, data_fingerprint: str, of_checkpoint: bool = False) -> dict[str, Any]:
    """The parts of a recipe that a resumed run and an export must share with the checkpoint, and its data.

    What is left out may change on the way: lengths, learning rate, micro-batch, workers, logging, sharding. Files count
    by what is in them, wherever they lie. of_checkpoint: of what a checkpoint holds; the model that its weights started
    from belongs to that where much of it stays frozen.
    """
    start = recipe.model.from_checkpoint
    wanted = start and (keeps_source(recipe) or not of_checkpoint)
    source = weights_fingerprint(start) if wanted else None
    return describe_identity(recipe, data_fingerprint, source, {"model": ["attention", "from_checkpoint"]})


def keeps_source(recipe: Recipe) -> bool:
    """Whether much of the model that a run starts from stays as it is, and so is in no checkpoint of the run."""
    return recipe.objective.method in ("minipost", "head", "lora", "embeddings")


def describe_identity(
    recipe: RunRecipe, data_fingerprint: str, source: str | None, free: dict[str, list[str]]
) -> dict[str, Any]:
    """The identity of any run: its data, the weights that it builds on, and its recipe.

    `free`: sections that count but for these keys, beside those that every recipe has.
    """
    values = recipe.model_dump(mode="json")
    free = {**free, "objective": ["loss_workspace_mib"]}
    chosen = {name: {key: values[name][key] for key in values[name] if key not in keys} for name, keys in free.items()}
    if "lora" in chosen.get("objective", {}):
        lora = recipe.objective.lora_settings
        chosen["objective"]["lora"] = lora and lora.model_dump()
    for (section, key), default in _LEFT_OUT.items():
        values_of = chosen.get(section, {})
        if key in values_of and values_of[key] == default:
            del values_of[key]
    chosen["optimizer"] = {key: values["optimizer"][key] for key in ("betas", "eps", "weight_decay")}
    if "name" in values["optimizer"]:
        muon = recipe.optimizer.muon_settings
        chosen["optimizer"] |= {"name": recipe.optimizer.name, "muon": muon and muon.model_dump()}
    chosen["training"] = {key: values["training"][key] for key in ("global_batch", "precision", "seed")}
    chosen["training"]["block_order"] = recipe.training.block_order or EARLIER_ORDER
    return json.loads(json.dumps({"data": data_fingerprint, "source": source, **chosen}))


def defaults_of(recipe: RunRecipe) -> dict[str, dict[str, Any]]:
    """Section -> key -> default: what a checkpoint of an earlier version, which has no such key, was trained with."""
    defaults = {}
    for name, section in recipe:
        if isinstance(section, Section):
            fields = type(section).model_fields.items()
            defaults[name] = {key: field.get_default() for key, field in fields if not field.is_required()}
    defaults["training"]["block_order"] = EARLIER_ORDER
    return json.loads(json.dumps(defaults, default=lambda section: section.model_dump(mode="json")))


def check_identity(
    own: dict[str, Any], saved: dict[str, Any], checkpoint: Path, defaults: dict[str, dict[str, Any]] | None = None
) -> None:
    """Raise `UserError` naming the first key in which a recipe, or its data, is not what `checkpoint` was made with.

    defaults: of keys that earlier versions lack, as `defaults_of` gives them.
    """
    wholes = {"data": "data.path: not the data", "source": "the model that the run builds on: not the weights"}
    for name, what in wholes.items():
        # Earlier versions know the source by its name, where nothing of it stays frozen.
        known = name == "data" or (own.get(name) is not None and saved.get(name) is not None)
        if known and own.get(name) != saved.get(name):
            raise UserError(f"{what} that {checkpoint} was trained on; give the run another name")
    for section in (name for name in own if name not in wholes):
        left_out = {key: default for (of, key), default in _LEFT_OUT.items() if of == section}
        for key, value in (left_out | own[section]).items():
            unsaid = (defaults or {}).get(section, {}).get(key, value)
            before = saved.get(section, {}).get(key, unsaid)
            if value != before:
                raise UserError(
                    f"{section}.{key} is {value}, but {checkpoint} was trained with {before}; give the run another name"
                )

"""What decides the numbers of a run: a checkpoint with another identity belongs to another run."""

import json
from pathlib import Path
from typing import Any

from megamini.config import Recipe, RunRecipe
from megamini.errors import UserError
from megamini.models.pretrained import weights_fingerprint

# Keys that checkpoints of earlier versions lack, with what those versions did.
_BEFORE_THE_KEY = {("optimizer", "name"): "adamw"}


def identity_of(recipe: Recipe, data_fingerprint: str) -> dict[str, Any]:
    """The parts of a recipe that a resumed run and an export must share with the checkpoint, and its data.

    What is left out may change on the way: lengths, learning rate, micro-batch, workers, logging, sharding. Where much
    of a model stays frozen, it also belongs to the weights of the one that it builds on.
    """
    frozen = recipe.objective.method in ("minipost", "head")
    source = weights_fingerprint(recipe.model.from_checkpoint) if frozen else None
    return describe_identity(recipe, data_fingerprint, source, {"model": ["attention"]})


def describe_identity(
    recipe: RunRecipe, data_fingerprint: str, source: str | None, free: dict[str, list[str]]
) -> dict[str, Any]:
    """The identity of any run: its data, the weights that it builds on, and its recipe.

    `free`: sections that count but for these keys, beside those that every recipe has.
    """
    values = recipe.model_dump(mode="json")
    free = {**free, "objective": ["loss_workspace_mib"]}
    chosen = {name: {key: values[name][key] for key in values[name] if key not in keys} for name, keys in free.items()}
    chosen["optimizer"] = {key: values["optimizer"][key] for key in ("betas", "eps", "weight_decay")}
    if "name" in values["optimizer"]:
        muon = recipe.optimizer.muon_settings
        chosen["optimizer"] |= {"name": recipe.optimizer.name, "muon": muon and muon.model_dump()}
    chosen["training"] = {key: values["training"][key] for key in ("global_batch", "precision", "seed")}
    return json.loads(json.dumps({"data": data_fingerprint, "source": source, **chosen}))


def check_identity(own: dict[str, Any], saved: dict[str, Any], checkpoint: Path) -> None:
    """Raise `UserError` naming the first key in which a recipe, or its data, is not what `checkpoint` was made with."""
    wholes = {"data": "data.path: not the data", "source": "the model that the run builds on: not the weights"}
    for name, what in wholes.items():
        if own.get(name) != saved.get(name):
            raise UserError(f"{what} that {checkpoint} was trained on; give the run another name")
    for section in (name for name in own if name not in wholes):
        for key, value in own[section].items():
            before = saved.get(section, {}).get(key, _BEFORE_THE_KEY.get((section, key)))
            if value != before:
                raise UserError(
                    f"{section}.{key} is {value}, but {checkpoint} was trained with {before}; give the run another name"
                )

"""Low-rank updates (LoRA, Hu et al. 2021, arXiv 2106.09685) of a decoder's layers, by the library `peft`."""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from megamini.data.hashing import random_bits
from megamini.errors import UserError
from megamini.models.families import Family
from megamini.models.materialise import Weights
from megamini.recipes.objective import LoraSection
from megamini.recipes.recipe import Recipe

# As peft names them: the module that it puts around, the two factors, and the one adapter that there is.
_BASE, _FIRST, _SECOND = ".base_layer.", "lora_A.default.weight", "lora_B.default.weight"


def lora_rank(recipe: Recipe) -> int:
    """Of the recipe's low-rank updates; 0 where it has none."""
    settings = recipe.objective.lora_settings
    return settings.rank if settings else 0


def add_factors(model: PreTrainedModel, family: Family, settings: LoraSection) -> list[nn.Parameter]:
    """Put two factors beside each matrix of each layer, without values where the model has none; returns them.

    Raises `UserError` where peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError(
            "objective.method lora: needs the package peft, which is not installed; pip install peft==0.21.2 (the "
            "extra lora of megamini brings it), or choose objective.method causal or embeddings"
        ) from None
    layers = family.layer_list(model)
    matrices = {name.split(".")[-1] for name, module in layers.named_modules() if isinstance(module, nn.Linear)}
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=sorted(matrices))
    inject_adapter_in_model(config, model)
    return [parameter for name, parameter in model.named_parameters() if name.endswith((_FIRST, _SECOND))]


def plain_name(name: str) -> str:
    """The name of a parameter in the model without factors; of a factor, its own."""
    return name.replace(_BASE, ".")


def with_factors(weights: Weights, model: PreTrainedModel, seed: int) -> Weights:
    """The weights of a model without factors for one with them: the first factor is drawn as peft draws it (the uniform
    distribution of He et al. 2015 with a = sqrt(5)) from the seed, the second is 0, so that the updates are 0."""
    factors = {
        name: (number, parameter.shape)
        for number, (name, parameter) in enumerate(model.named_parameters())
        if name.endswith((_FIRST, _SECOND))
    }

    def read(name: str) -> torch.Tensor | None:
        if name not in factors:
            return weights(plain_name(name))
        number, shape = factors[name]
        factor = torch.zeros(shape)
        if name.endswith(_FIRST):
            generator = torch.Generator().manual_seed(int(random_bits(seed, number)) >> 1)
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5), generator=generator)
        return factor

    return read


def low_rank_update(
    name: str, names: dict[str, object], read: Callable[[str], torch.Tensor], settings: LoraSection
) -> torch.Tensor | None:
    """What is to be added to a matrix, by its name in the model without factors; None for one that has no factors.

    names: of all parameters, as `plain_name` gives them. read: gives a factor by its name.
    """
    module = name.removesuffix("weight")
    if f"{module}{_FIRST}" not in names:
        return None
    return read(f"{module}{_SECOND}") @ read(f"{module}{_FIRST}") * (settings.alpha / settings.rank)

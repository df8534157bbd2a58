"""Mini-models as ordinary models of `transformers`: of an exit (MiniJoint), or with a bridge to the head (MiniPost)."""

import copy
from collections.abc import Callable

import torch
from transformers import PretrainedConfig, PreTrainedModel

from megamini.errors import UserError
from megamini.models.families import Family
from megamini.models.materialise import Weights
from megamini.models.primary_model import PrimaryModel, assert_tied


def mini_config(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The configuration of the bottom `layers` layers; settings that are lists by layer are cut alike."""
    mini = copy.deepcopy(config)
    mini.num_hidden_layers = layers
    if getattr(mini, "layer_types", None) is not None:
        mini.layer_types = mini.layer_types[:layers]
    return mini


def extract_mini_model(primary: PrimaryModel, layer: int) -> PreTrainedModel:
    """A model of its own with the weights of the exit after `layer`; `UserError` where there is no such exit."""
    mini, sources = mini_outline(primary, layer)
    weights = primary.state_dict()
    return with_weights(mini, lambda name: weights[sources[name]])


def with_weights(outline: PreTrainedModel, read: Callable[[str], torch.Tensor]) -> PreTrainedModel:
    """A model of its own from an outline on the meta device and what gives the tensors of its state dict by name."""
    model = type(outline)(outline.config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(read(name))
    assert_tied(model)
    return model.eval()


def mini_outline(primary: PrimaryModel, layer: int) -> tuple[PreTrainedModel, dict[str, str]]:
    """The mini-model of the exit after `layer` without weights, on the meta device, and for each tensor of its state
    dict the name of the one in the primary model's. Raises `UserError` where there is no such exit."""
    if layer not in primary.exit_layers:
        there_are = ", ".join(map(str, primary.exit_layers)) or "none"
        raise UserError(f"--exit {layer}: the model has no exit there; its exits are after layers: {there_are}")
    family, exit_ = primary.family, f"exits.{layer}"
    replaced = {name: f"{exit_}.transform.{number}" for number, name in enumerate(family.transform)}
    if family.final_norm:
        replaced[family.final_norm] = f"{exit_}.norm"
    with torch.device("meta"):
        mini = type(primary.model)(mini_config(primary.model.config, layer))

    def source(name: str) -> str:
        for prefix, ours in replaced.items():
            if name.startswith(f"{prefix}."):
                return f"{ours}.{name.removeprefix(f'{prefix}.')}"
        return f"model.{name}"

    return mini, {name: source(name) for name in mini.state_dict()}


def bottom_weights(weights: Weights, family: Family, layer: int) -> Weights:
    """Of a model's weights those of a bridged mini-model: all but the layers from number `layer` on, which are drawn.

    Marchisio et al. 2023, MiniPost: the bottom layers, fresh ones, the model's own final norm and head.
    """
    layers = f"{family.layers}."

    def read(name: str) -> torch.Tensor | None:
        above = name.startswith(layers) and int(name.removeprefix(layers).split(".")[0]) >= layer
        return None if above else weights(name)

    return read

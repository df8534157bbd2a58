"""The mini-model of an exit as an ordinary model of `transformers`: bottom layers, the exit's norm and transform."""

import copy

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from megamini.errors import UserError
from megamini.models.masked_lm import PrimaryModel, assert_tied


def mini_config(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The configuration of the bottom `layers` layers; settings that are lists by layer are cut alike."""
    mini = copy.deepcopy(config)
    mini.num_hidden_layers = layers
    if getattr(mini, "layer_types", None) is not None:
        mini.layer_types = mini.layer_types[:layers]
    return mini


def extract_mini_model(primary: PrimaryModel, layer: int) -> PreTrainedModel:
    """A model of its own with the weights of the exit after `layer`; `UserError` where there is no such exit."""
    if layer not in primary.exit_layers:
        there_are = ", ".join(map(str, primary.exit_layers)) or "none"
        raise UserError(f"--exit {layer}: the model has no exit there; its exits are after layers: {there_are}")
    family, exit_ = primary.family, primary.exits[str(layer)]
    mini = type(primary.model)(mini_config(primary.model.config, layer))
    weights = {name: tensor for name, tensor in primary.model.state_dict().items() if name in mini.state_dict()}
    replaced: dict[str, nn.Module] = dict(zip(family.transform, exit_.transform, strict=True))
    if family.final_norm:
        replaced[family.final_norm] = exit_.norm
    for prefix, module in replaced.items():
        weights |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
    mini.load_state_dict(weights, strict=True)
    mini.tie_weights()
    assert_tied(mini)
    return mini.eval()

"""Mini-models as ordinary models of `transformers`: of an exit (MiniJoint), or with a bridge to the head (MiniPost)."""

import copy
from collections.abc import Callable

import torch
from transformers import PretrainedConfig, PreTrainedModel

from megamini.errors import UserError
from megamini.models.families import family_of
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


def bridged_mini_model(model: PreTrainedModel, layer: int, bridge_layers: int) -> PreTrainedModel:
    """The bottom `layer` layers of `model`, `bridge_layers` fresh ones, and the model's own final norm and head.

    Marchisio et al. 2023, MiniPost. The weights are copies; the fresh layers have the library's initial weights, drawn
    from PyTorch's generator, and take the per-layer settings of the layers that they stand in for. Raises `UserError`
    where the mini-model would be deeper than the model.
    """
    layers = model.config.num_hidden_layers
    if not 1 <= layer <= layers or layer + bridge_layers > layers:
        raise UserError(
            f"model.exits: a mini-model of {layer} layers and a bridge of {bridge_layers} does not fit into a body of "
            f"{layers} layers"
        )
    attention = model.config._attn_implementation
    mini = type(model)._from_config(mini_config(model.config, layer + bridge_layers), attn_implementation=attention)
    _load_bottom(mini, model, layer)
    return mini


def _load_bottom(mini: PreTrainedModel, model: PreTrainedModel, layer: int) -> None:
    """Copy all but the layers from number `layer` on."""
    above = f"{family_of(model.config).layers}."
    weights = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name in mini.state_dict() and not (name.startswith(above) and _number(name, above) >= layer)
    }
    missing, unexpected = mini.load_state_dict(weights, strict=False)
    fresh = [name for name in missing if not (name.startswith(above) and _number(name, above) >= layer)]
    assert not fresh and not unexpected, f"not copied: {fresh or unexpected}"
    mini.tie_weights()
    assert_tied(mini)


def _number(name: str, prefix: str) -> int:
    """The layer that a tensor belongs to."""
    return int(name.removeprefix(prefix).split(".")[0])

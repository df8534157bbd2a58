"""A model built without memory gets its first weights part by part, so that nobody needs room for all of it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from megamini.library_internals import check_internals

check_internals(__name__)

Partition = Callable[[nn.Module], None]
Weights = Callable[[str], torch.Tensor | None]


def materialise(
    root: nn.Module,
    model: PreTrainedModel,
    layers: nn.ModuleList,
    partition: Partition | None = None,
    weights: Weights | None = None,
) -> None:
    """Give what lies on the meta device below `root` memory on the CPU, and the library's initial weights or others.

    root: `model`, or a module around it with further parts, which are initialised as the model's are. The parts: what
    holds the token embeddings, then, in the order of the tree, each of the model's encoder `layers` and whatever lies
    beside them. `partition` is called with each as soon as it is complete, and may take its parameters elsewhere
    (ZeRO-3 leaves a rank its share). The values come from PyTorch's generator and do not depend on `partition`;
    parameters that are one stay one. `weights` replaces what was drawn, wherever it has a tensor for a name of `model`.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    fresh: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    embeddings = model.get_input_embeddings()
    parts = list(_parts(root, model, layers))
    (first,) = (turn for turn in parts if not turn.around and embeddings in turn.part.modules())
    for number, (part, owner, around) in enumerate([first, *(turn for turn in parts if turn is not first)]):
        before = set(fresh)
        for module in [part] if around else part.modules():
            _allocate(module, fresh)
        if around:
            owner._init_weights(part)  # all below it is initialised already
        else:
            part.apply(owner._init_weights)
        for old in (fresh.keys() - before) if weights else ():
            _read_into(fresh[old][1], names.get(old, []), weights)
        if number == 0:
            # The library's mark: the output projection's turn must not draw the tied matrix again.
            embeddings.weight._is_hf_initialized = True
        if partition:
            partition(part)


def _read_into(parameter: nn.Parameter, names: list[str], weights: Weights) -> None:
    """Overwrite a parameter with the tensor that there is for one of its names, if there is one."""
    for name in names:
        if (tensor := weights(name)) is not None:
            with torch.no_grad():
                parameter.copy_(tensor)
            parameter._is_hf_initialized = True  # a module around this one may have it in its own turn
            return


class _Turn(NamedTuple):
    """A module, the model by whose rules it is initialised, and whether it is one around the layers, whose children
    have turns of their own before it."""

    part: nn.Module
    owner: PreTrainedModel
    around: bool


def _parts(module: nn.Module, owner: PreTrainedModel, layers: nn.ModuleList) -> Iterator[_Turn]:
    owner = module if isinstance(module, PreTrainedModel) else owner
    around = any(inner is layers for inner in module.modules())
    if around:
        for child in module.children():
            yield from _parts(child, owner, layers)
    yield _Turn(module, owner, around)


def _allocate(module: nn.Module, fresh: dict[int, tuple[nn.Parameter, nn.Parameter]]) -> None:
    """Memory for a module's own tensors. fresh: by the id of a parameter without memory, itself and its successor."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta:
            if id(parameter) not in fresh:
                empty = nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad)
                fresh[id(parameter)] = (parameter, empty)
            module._parameters[name] = fresh[id(parameter)][1]
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            module._buffers[name] = torch.empty_like(buffer, device="cpu")

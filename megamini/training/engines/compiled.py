"""`training.compile`: encoder layers compiled one by one, and how many graphs that has made.

A layer at a time, since layers alike share a graph, which compiles in a moment; and because the library's code around
them, which collects hidden states, cannot be compiled as a whole: PyTorch would quietly run all of it as it stands.
"""

import torch
from torch._dynamo.utils import counters
from torch._inductor.cpp_builder import get_cpp_compiler
from torch.utils._triton import has_triton
from transformers import PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from megamini.errors import UserError
from megamini.library_internals import check_internals
from megamini.models.trained_model import TrainedModel

check_internals(__name__)


def compile_layers(model: TrainedModel, device: torch.device) -> None:
    """Compile the encoder layers of a model for a device, in place: at the first call of each kind of layer.

    Raises UserError where there is no compiler.
    """
    _check_compiler(device)
    counters.clear()
    _leave_attention_maps_out(model)
    for layer in model.layers:
        # Not the module: hooks of the library and of DeepSpeed stay outside, where they may do as they like.
        layer.forward = torch.compile(layer.forward)


def _leave_attention_maps_out(model: TrainedModel) -> None:
    """The library collects attention maps by hooks inside the layers, which would end graphs there, and which it sets
    as soon as hidden states are asked for. Nobody asks for maps in training."""
    for body in model.modules():
        if isinstance(body, PreTrainedModel) and body.base_model is body:
            maybe_install_capturing_hooks(body)
    for layer in model.layers:
        for part in layer.modules():
            if part is not layer:
                part._forward_hooks.clear()


def graphs_in_words() -> str:
    """What has been compiled in this process so far, for people."""
    graphs, breaks = graphs_and_breaks()
    found = counters["graph_break"].items()
    reasons = "".join(f"; {count} x {' '.join(reason.split())[:160]}" for reason, count in found)
    return f"compiled: {graphs} graphs, {breaks} graph breaks{reasons}"


def graphs_and_breaks() -> tuple[int, int]:
    """Graphs compiled in this process, and how often one had to end early."""
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def _check_compiler(device: torch.device) -> None:
    if device.type == "cuda" and not has_triton():
        raise UserError("training.compile: needs the package triton for this GPU; install it, or leave this key out")
    try:
        get_cpp_compiler()
    except Exception as error:  # of several types
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"training.compile: needs a C++ compiler, such as g++, on every host: {reason}; install one, or leave "
            "training.compile out"
        ) from None

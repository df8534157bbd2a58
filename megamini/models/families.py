"""The one place that knows where a family of models keeps its layers, final norm and language-modelling head."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    masking_utils,
)

from megamini.errors import UserError
from megamini.library_internals import check_internals
from megamini.recipes.values import FamilyName

check_internals(__name__)

Transform = Callable[[list[nn.Module], torch.Tensor], torch.Tensor]


def _dense_gelu_norm(modules: list[nn.Module], states: torch.Tensor) -> torch.Tensor:
    """RoBERTa's head before the projection, which the library does not keep as a module of its own."""
    dense, norm = modules
    return norm(functional.gelu(dense(states)))


def _one_module(modules: list[nn.Module], states: torch.Tensor) -> torch.Tensor:
    return modules[0](states)


def _nothing(modules: list[nn.Module], states: torch.Tensor) -> torch.Tensor:
    """Decoders project what their final norm gives."""
    return states


@dataclass(frozen=True)
class Family:
    """Names inside the masked or causal language model of one `model_type`.

    `final_norm` is None where the layers end in a norm of their own (post-norm), so that an exit needs none.
    """

    layers: str
    final_norm: str | None
    transform: tuple[str, ...]
    apply_transform: Transform
    dropout_keys: tuple[str, ...]
    pads_shift_positions: bool
    """Whether position ids start behind the pad token's id, which costs as many rows of the position table."""
    outputs: tuple[str, ...]
    """Ends of the names of the projections that add to the residual stream: of attention, and of feed-forward."""
    fused: tuple[tuple[str, int], ...] = ()
    """Linear modules, by the end of their names, whose weight is several matrices one below the other, and how many."""
    stored_names: tuple[tuple[str, str], ...] = ()
    """Tensors whose names in a checkpoint's files are others than in the model, and these."""
    causal: bool = False
    """A decoder: each position sees those before it, and predicts the next. Its output matrix need not be tied."""

    def stored_name(self, name: str) -> str:
        """The name in a checkpoint's files of a tensor of the model's state dict."""
        return dict(self.stored_names).get(name, name)

    @property
    def auto_class(self) -> type:
        """The library's class that makes models of the family."""
        return AutoModelForCausalLM if self.causal else AutoModelForMaskedLM

    def layer_list(self, model: PreTrainedModel) -> nn.ModuleList:
        """The layers, bottom first."""
        return model.get_submodule(self.layers)

    def transform_modules(self, model: PreTrainedModel) -> list[nn.Module]:
        """The modules of the head between the last hidden states and the projection onto the vocabulary."""
        return [model.get_submodule(name) for name in self.transform]

    def adds_to_residual(self, parameter: str) -> bool:
        """Whether a parameter of that name is the weight of a layer's output projection."""
        return parameter.startswith(self.layers) and parameter.removesuffix(".weight").endswith(self.outputs)

    def matrices_in(self, module: str) -> int:
        """How many matrices the weight of a linear module, by its name, holds one below the other."""
        return next((count for end, count in self.fused if module.endswith(end)), 1)


def run_body(model: PreTrainedModel, **inputs: Any) -> Any:
    """The library's output of a model's body for inputs whose rows are one sequence each.

    Training reads no cache of keys and values. And where there is no mask, the library asks whether positions are those
    of several sequences in a row, and waits for the device to answer: in every micro-batch of a decoder.
    """
    if not family_of(model.config).causal:
        return model.base_model(**inputs)
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        return model.base_model(**inputs, use_cache=False)
    finally:
        masking_utils.find_packed_sequence_indices = _packed_sequences


def embed(model: PreTrainedModel, ids: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """What the model's own embedding would give for ids [b, L] with the rows of `matrix` [V, d], as `inputs_embeds`
    [b, L, d]: Gemma scales them there, and nowhere behind."""
    embedded = functional.embedding(ids, matrix)
    scale = getattr(model.get_input_embeddings(), "embed_scale", None)
    return embedded if scale is None else embedded * scale.to(matrix.dtype)


_packed_sequences = masking_utils.find_packed_sequence_indices
_BERT_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_ROBERTA_TRANSFORM = ("lm_head.dense", "lm_head.layer_norm")
_BERT_OUTPUTS = (".output.dense",)


def _decoder(**changes: Any) -> Family:
    """Llama's names; other families of decoders differ in some."""
    names = {"layers": "model.layers", "final_norm": "model.norm", "outputs": (".o_proj", ".down_proj")}
    common = {"transform": (), "apply_transform": _nothing, "dropout_keys": ("attention_dropout",)}
    return Family(**{**names, **common, "pads_shift_positions": False, "causal": True, **changes})


_ROBERTA = Family(
    "roberta.encoder.layer", None, _ROBERTA_TRANSFORM, _dense_gelu_norm, _BERT_DROPOUT, True, _BERT_OUTPUTS
)

_DETAILS: dict[FamilyName, Family] = {
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "xlm-roberta-xl": Family(
        "roberta.encoder.layer",
        "roberta.encoder.LayerNorm",
        _ROBERTA_TRANSFORM,
        _dense_gelu_norm,
        _BERT_DROPOUT,
        True,
        _BERT_OUTPUTS,
    ),
    "bert": Family(
        "bert.encoder.layer", None, ("cls.predictions.transform",), _one_module, _BERT_DROPOUT, False, _BERT_OUTPUTS
    ),
    "modernbert": Family(
        "model.layers",
        "model.final_norm",
        ("head",),
        _one_module,
        ("embedding_dropout", "attention_dropout", "mlp_dropout"),
        False,
        (".Wo",),
        fused=((".Wqkv", 3), (".Wi", 2)),  # queries, keys and values; what is activated and its gate
    ),
    "llama": _decoder(),
    "qwen2": _decoder(),
    "qwen3": _decoder(),
    "gemma": _decoder(),
    # Its queries, keys and values lie head by head in one matrix, which therefore counts as one.
    "gpt_neox": _decoder(
        layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        outputs=(".attention.dense", ".dense_4h_to_h"),
        dropout_keys=("hidden_dropout", "attention_dropout"),
        stored_names=(("lm_head.weight", "embed_out.weight"),),
    ),
}
FAMILIES: dict[str, Family] = {name: _DETAILS[name] for name in get_args(FamilyName)}


def longest_input(config: PretrainedConfig) -> int:
    """Tokens for which a model has positions; RoBERTa's begin behind the pad token's id."""
    taken = config.pad_token_id + 1 if family_of(config).pads_shift_positions else 0
    return config.max_position_embeddings - taken


def truncating(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer with the model's positions as its length, so that `truncation=True` cuts there."""
    if config.model_type not in FAMILIES or tokenizer.model_max_length == (longest := longest_input(config)):
        return tokenizer
    own = copy.copy(tokenizer)  # the other may go with another model
    own.model_max_length = longest
    return own


def family_of(config: PretrainedConfig) -> Family:
    """The family of a configuration; `UserError` where it is not one of ours."""
    if config.model_type not in FAMILIES:
        raise UserError(f"model: family '{config.model_type}' is not supported; known are {', '.join(FAMILIES)}")
    return FAMILIES[config.model_type]


def is_untied(config: PretrainedConfig) -> bool:
    """Whether a model has an output matrix of its own, which of our families decoders alone may have."""
    return family_of(config).causal and not config.tie_word_embeddings

"""The primary model of a recipe: its body from a configuration, or from a checkpoint folder."""

import dataclasses
import math
from collections.abc import Container
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import ACT2FN
from transformers.utils import is_flash_attn_2_available

from megamini.data.tokenizer import has_tokenizer, load_tokenizer
from megamini.errors import UserError, did_you_mean
from megamini.machine import device_memory
from megamini.models.families import FAMILIES, family_of
from megamini.models.lora import add_factors, with_factors
from megamini.models.materialise import Partition, Weights, materialise
from megamini.models.mini_model import bottom_weights, mini_config
from megamini.models.pretrained import load_config, load_lm, stored_weights
from megamini.models.primary_model import PrimaryModel, check_exits
from megamini.recipes.recipe import Recipe
from megamini.recipes.sections import ModelSection

# What the data decides: a recipe that sets one of these could contradict it.
_ROLES = ("pad", "bos", "eos", "cls", "sep")
_DECIDED_BY_DATA = ("vocab_size", *(f"{role}_token_id" for role in _ROLES))

# What the library takes at any value, to fail or to build nonsense later on.
_SIZES = (
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "intermediate_size",
    "type_vocab_size",
)  # fmt: skip
_OF_DECODERS = ("is_decoder", "add_cross_attention", "is_encoder_decoder")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "classifier_activation")


def build_primary(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    block_length: int,
    partition: Partition | None = None,
    from_source: bool = True,
) -> PrimaryModel:
    """What the recipe trains, with fp32 weights on the CPU, the same on every rank for the same seed.

    It is built part by part, and `partition` may take each away, so that no rank ever holds the whole model; from a
    checkpoint too, if that has the names of the library's present version.

    The primary model with its exits; with minipost the bridged mini-model alone. What the method leaves as it is wants
    no gradient. Raises `UserError` for a configuration or checkpoint that does not fit the data or is not tied.
    """
    if recipe.model.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise UserError(
            "model.attention: flash_attention_2 needs a GPU and the package flash-attn; one is missing here, use sdpa"
        )
    torch.manual_seed(recipe.training.seed)
    config = model_config(recipe.model, tokenizer, block_length)
    primary = _with_exits(_without_memory(_trained_config(recipe, config), recipe), recipe)
    weights = None
    if recipe.model.from_checkpoint and from_source:
        weights = source_weights(recipe, config)
        if recipe.objective.lora_settings:
            weights = with_factors(weights, primary.model, recipe.training.seed)
    elif recipe.model.zero_init_outputs:
        weights = _zero_outputs(primary)
    materialise(primary, primary.model, primary.family.layer_list(primary.model), partition, weights)
    return primary


def _zero_outputs(primary: PrimaryModel) -> Weights:
    """Zeros for what every layer adds to the residual stream; all else is drawn. The draws do not change by it."""
    shapes = {
        name: parameter.shape
        for name, parameter in primary.model.named_parameters()
        if primary.family.adds_to_residual(name)
    }
    return lambda name: torch.zeros(shapes[name]) if name in shapes else None


def outline_of(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, block_length: int) -> PrimaryModel:
    """`build_primary` without weights, on the meta device: what there is, by which name and of which shape."""
    config = model_config(recipe.model, tokenizer, block_length)
    return _with_exits(_without_memory(_trained_config(recipe, config), recipe), recipe)


def source_weights(recipe: Recipe, config: PretrainedConfig) -> Weights:
    """The tensors of the recipe's checkpoint by the names of its language model; None for what is to be drawn instead.

    They are read one by one where its files have the library's present names, else the library reads it as a whole.
    Raises `UserError` for a checkpoint that is torn, not tied, or has no language-modelling head.
    """
    checkpoint, method = recipe.model.from_checkpoint, recipe.objective.method
    where = f"model.from_checkpoint: {checkpoint}"
    whole = load_config(checkpoint, where, recipe.model.dropout)
    outline, weights = _without_memory(whole, recipe), None
    if method != "head":  # a checkpoint without a head is for the library
        weights = stored_weights(checkpoint, outline, where)
    if weights is None:
        model = load_lm(checkpoint, whole, recipe.model.attention, where, fresh_head=method == "head")
        weights = model.state_dict().get
    if whole.vocab_size > config.vocab_size:
        weights = _with_fewer_rows(weights, outline, _without_memory(config, recipe))
    return bottom_weights(weights, family_of(config), recipe.model.exits[0]) if method == "minipost" else weights


def _with_fewer_rows(weights: Weights, whole: PreTrainedModel, trained: PreTrainedModel) -> Weights:
    """The weights of `whole` for `trained`, whose vocabulary ends before that of the checkpoint: the rows behind it,
    which fill a matrix up to a round size, belong to no piece."""
    of_vocabulary = {
        name: len(tensor)
        for name, tensor in trained.state_dict().items()
        if tensor.shape != whole.state_dict()[name].shape
    }

    def read(name: str) -> torch.Tensor | None:
        tensor = weights(name)
        return tensor if tensor is None or name not in of_vocabulary else tensor[: of_vocabulary[name]]

    return read


def _trained_config(recipe: Recipe, config: PretrainedConfig) -> PretrainedConfig:
    """That of the model that trains: MiniPost's is the mini-model."""
    if recipe.objective.method != "minipost":
        return config
    return mini_config(config, recipe.model.exits[0] + recipe.model.bridge_layers)


def _without_memory(config: PretrainedConfig, recipe: Recipe) -> PreTrainedModel:
    with torch.device("meta"):
        model = family_of(config).auto_class.from_config(
            config, attn_implementation=recipe.model.attention, dtype=torch.float32
        )
    others = [getattr(config, f"{role}_token_id", None) for role in ("bos", "eos", "cls", "sep")]
    if config.pad_token_id in others:  # a token that is also read: its row learns, and does not start as zeros
        model.get_input_embeddings().padding_idx = None
    return model


def _with_exits(model: PreTrainedModel, recipe: Recipe) -> PrimaryModel:
    """The model with what the recipe adds, and what it leaves as it is without a gradient."""
    method = recipe.objective.method
    _freeze(model, recipe)
    if recipe.training.activation_checkpointing:
        # Layers only, and not reentrant: DeepSpeed counts a tied weight's gradient twice otherwise.
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    workspace = recipe.objective.loss_workspace_bytes(device_memory())
    if method == "minipost":
        return PrimaryModel(model, (), recipe.head_weights, workspace, top_name=f"exit_{recipe.model.exits[0]}")
    return PrimaryModel(model, recipe.model.exits, recipe.head_weights, workspace)


def _freeze(model: PreTrainedModel, recipe: Recipe) -> None:
    """minipost: all but the bridge layers; head: all but the head's transform and the output bias; lora: all but the
    token matrices and the factors, which are added here; embeddings: all but the token matrices."""
    family, method = family_of(model.config), recipe.objective.method
    if method == "minipost":
        trained = family.layer_list(model)[recipe.model.exits[0] :].parameters()
    elif method in ("lora", "embeddings"):
        lora = recipe.objective.lora_settings
        factors = add_factors(model, family, lora) if lora else []
        trained = [model.get_input_embeddings().weight, model.get_output_embeddings().weight, *factors]
    elif method == "head":
        transform = [parameter for module in family.transform_modules(model) for parameter in module.parameters()]
        trained = [*transform, model.get_output_embeddings().bias]
    else:
        return
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def is_causal(section: ModelSection) -> bool:
    """Whether the recipe's body is a decoder. Raises `UserError` for a checkpoint whose configuration says nothing."""
    if section.family is not None:
        return FAMILIES[section.family].causal
    where = f"model.from_checkpoint: {section.from_checkpoint}"
    return family_of(load_config(section.from_checkpoint, where, dropout=None)).causal


def model_config(section: ModelSection, tokenizer: PreTrainedTokenizerBase, block_length: int) -> PretrainedConfig:
    """The configuration of the recipe's body, from scratch or from a checkpoint; cheap, and checked against the data.

    Raises `UserError` naming the key for one that cannot be built, or does not fit the data.
    """
    read = _checkpoint_config if section.from_checkpoint else body_config
    config = read(section, tokenizer, block_length)
    check_exits(section.exits, config.num_hidden_layers, section.bridge_layers)
    return config


def body_config(section: ModelSection, tokenizer: PreTrainedTokenizerBase, block_length: int) -> PretrainedConfig:
    """The configuration of a body from scratch: the recipe's keys, and what the data decides."""
    family = FAMILIES[section.family]
    known = {field.name for field in dataclasses.fields(type(AutoConfig.for_model(section.family)))}
    for key in section.config:
        if key in _DECIDED_BY_DATA:
            raise UserError(f"model.config.{key}: decided by the data; leave it out")
        if key not in known:
            raise UserError(f"unknown key 'model.config.{key}'{did_you_mean(key, known)}")
        _check_value(key, section.config[key])
    values = {"max_position_embeddings": positions_needed(family.pads_shift_positions, tokenizer, block_length)}
    if family.causal:
        values |= _heads(section.config, known)
    values |= section.config
    values |= {"vocab_size": len(tokenizer)}
    values |= {
        f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in _ROLES if f"{role}_token_id" in known
    }
    if section.dropout is not None:
        values |= dict.fromkeys(family.dropout_keys, section.dropout)
    try:
        config = AutoConfig.for_model(section.family, **values)
    except Exception as error:  # the library's own validation raises several types
        raise UserError(f"model.config: {' '.join(str(error).split())}") from None
    if config.hidden_size % config.num_attention_heads and "head_dim" not in section.config:
        raise UserError(
            f"model.config.hidden_size: {config.hidden_size} is no multiple of {config.num_attention_heads} heads"
        )
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if _turned(config, width) > width:
        raise UserError(
            f"model.config: heads of {width} have no even width, which rotary positions need; "
            "choose another hidden_size, num_attention_heads or head_dim"
        )
    if config.num_attention_heads % (groups := getattr(config, "num_key_value_heads", None) or 1):
        raise UserError(
            f"model.config.num_key_value_heads: {config.num_attention_heads} heads are no multiple of {groups}"
        )
    check_positions(config, tokenizer, block_length, "model.config.max_position_embeddings")
    return config


def _turned(config: PretrainedConfig, width: int) -> int:
    """How many dimensions of a head of that width rotary positions turn, in pairs: 0 for a family without them."""
    rotary = getattr(config, "rope_parameters", None)
    return math.ceil(int(width * rotary.get("partial_rotary_factor", 1.0)) / 2) * 2 if rotary else 0


def _heads(config: dict[str, Any], known: Container[str]) -> dict[str, int]:
    """Keys and values for every head, and heads that divide the width: some families' defaults fit one size alone."""
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if not (isinstance(heads, int) and isinstance(width, int) and heads >= 1):
        return {}
    values = {"num_key_value_heads": heads, "head_dim": max(1, width // heads)}
    return {key: value for key, value in values.items() if key in known}


def _check_value(key: str, value: object) -> None:
    if key in _SIZES and isinstance(value, int) and value < 1:
        raise UserError(f"model.config.{key}: must be at least 1, not {value}")
    if key in _OF_DECODERS and value:
        raise UserError(f"model.config.{key}: the body is an encoder that sees both sides; leave it out")
    if key == "use_bidirectional_attention" and value:
        raise UserError(f"model.config.{key}: a decoder that sees both sides predicts no next token; leave it out")
    if key in _ACTIVATIONS and value not in ACT2FN:
        raise UserError(f"model.config.{key}: no activation '{value}'{did_you_mean(str(value), ACT2FN)}")


def positions_needed(pads_shift_positions: bool, tokenizer: PreTrainedTokenizerBase, block_length: int) -> int:
    """Rows of the position table for a block; RoBERTa's ids start behind the pad token's id."""
    return block_length + (tokenizer.pad_token_id + 1 if pads_shift_positions else 0)


def check_positions(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, block_length: int, where: str
) -> None:
    """Raise `UserError`, which begins with `where`, for a body with too few positions for blocks of that length."""
    needed = positions_needed(family_of(config).pads_shift_positions, tokenizer, block_length)
    if config.max_position_embeddings < needed:
        raise UserError(
            f"{where}: {config.max_position_embeddings} positions are too few for blocks of {block_length} tokens; "
            f"{needed} are needed; prepare the data with --block-length "
            f"{config.max_position_embeddings - needed + block_length} or less"
        )


def _checkpoint_config(
    section: ModelSection, tokenizer: PreTrainedTokenizerBase, block_length: int
) -> PretrainedConfig:
    where = f"model.from_checkpoint: {section.from_checkpoint}"
    config = load_config(section.from_checkpoint, where, section.dropout)
    decoder = family_of(config).causal
    own = load_tokenizer(section.from_checkpoint, decoder) if has_tokenizer(section.from_checkpoint) else None
    pieces = config.vocab_size if own is None else len(own)
    advice = f"prepare the data with --tokenizer {section.from_checkpoint}"
    if pieces != len(tokenizer):
        raise UserError(f"{where}: its vocabulary has {pieces} pieces, the data's tokenizer {len(tokenizer)}; {advice}")
    if own is not None and own.get_vocab() != tokenizer.get_vocab():
        raise UserError(f"{where}: its tokenizer has as many pieces as the data's, but other ones; {advice}")
    if config.vocab_size < pieces:
        raise UserError(f"{where}: has only {config.vocab_size} rows for the {pieces} pieces of its tokenizer")
    check_positions(config, tokenizer, block_length, where)
    config.vocab_size = len(tokenizer)  # without rows that only fill the matrix up
    if hasattr(config, "megamini"):  # of the checkpoint, and no more of what is trained from it: its lineage is another
        del config.megamini
    return config

"""The primary model of a recipe: its body from a configuration, or from a checkpoint folder."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import ACT2FN
from transformers.utils import cached_file, is_flash_attn_2_available

from megamini.config import ModelSection, Recipe
from megamini.data.files import is_missing_folder
from megamini.errors import UserError, did_you_mean
from megamini.models.families import FAMILIES, family_of
from megamini.models.masked_lm import PrimaryModel, check_exits

# What the data decides: a recipe that sets one of these could contradict it.
_ROLES = ("pad", "bos", "eos", "cls", "sep")
_DECIDED_BY_DATA = ("vocab_size", *(f"{role}_token_id" for role in _ROLES))

# What the library takes at any value, to fail or to build nonsense later on.
_SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "type_vocab_size")
_OF_DECODERS = ("is_decoder", "add_cross_attention", "is_encoder_decoder")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "classifier_activation")


def build_primary(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, block_length: int) -> PrimaryModel:
    """The recipe's primary model with fp32 weights on the CPU, the same on every rank for the same seed.

    Raises `UserError` for a configuration or checkpoint that does not fit the data or is not tied.
    """
    if recipe.model.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise UserError(
            "model.attention: flash_attention_2 needs a GPU and the package flash-attn; one is missing here, use sdpa"
        )
    torch.manual_seed(recipe.training.seed)
    config = model_config(recipe.model, tokenizer, block_length)
    if recipe.model.from_checkpoint:
        model = _load_checkpoint(recipe.model, config)
    else:
        model = AutoModelForMaskedLM.from_config(config, attn_implementation=recipe.model.attention)
    if recipe.training.activation_checkpointing:
        # Encoder layers only, and not reentrant: DeepSpeed counts a tied weight's gradient twice otherwise.
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return PrimaryModel(model, recipe.model.exits, recipe.head_weights, recipe.objective.loss_workspace_mib * 2**20)


def model_config(section: ModelSection, tokenizer: PreTrainedTokenizerBase, block_length: int) -> PretrainedConfig:
    """The configuration of the recipe's body, from scratch or from a checkpoint; cheap, and checked against the data.

    Raises `UserError` naming the key for one that cannot be built, or does not fit the data.
    """
    read = _checkpoint_config if section.from_checkpoint else body_config
    config = read(section, tokenizer, block_length)
    check_exits(section.exits, config.num_hidden_layers)
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
        raise UserError(f"model.config: {error}") from None
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"model.config.hidden_size: {config.hidden_size} is no multiple of {config.num_attention_heads} heads"
        )
    _check_positions(config, tokenizer, block_length, "model.config.max_position_embeddings")
    return config


def _check_value(key: str, value: object) -> None:
    if key in _SIZES and isinstance(value, int) and value < 1:
        raise UserError(f"model.config.{key}: must be at least 1, not {value}")
    if key in _OF_DECODERS and value:
        raise UserError(f"model.config.{key}: the body is an encoder that sees both sides; leave it out")
    if key in _ACTIVATIONS and value not in ACT2FN:
        raise UserError(f"model.config.{key}: no activation '{value}'{did_you_mean(str(value), ACT2FN)}")


def positions_needed(pads_shift_positions: bool, tokenizer: PreTrainedTokenizerBase, block_length: int) -> int:
    """Rows of the position table for a block; RoBERTa's ids start behind the pad token's id."""
    return block_length + (tokenizer.pad_token_id + 1 if pads_shift_positions else 0)


def _check_positions(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, block_length: int, where: str
) -> None:
    needed = positions_needed(family_of(config).pads_shift_positions, tokenizer, block_length)
    if config.max_position_embeddings < needed:
        raise UserError(
            f"{where}: {config.max_position_embeddings} positions are too few for blocks of {block_length} tokens; "
            f"{needed} are needed"
        )


def _checkpoint_config(
    section: ModelSection, tokenizer: PreTrainedTokenizerBase, block_length: int
) -> PretrainedConfig:
    where = f"model.from_checkpoint: {section.from_checkpoint}"
    if is_missing_folder(section.from_checkpoint):
        raise UserError(f"{where}: no such folder; give one with config.json and model.safetensors, or a hub name")
    try:
        config = AutoConfig.from_pretrained(section.from_checkpoint, trust_remote_code=False)
    except Exception as error:  # whatever a broken folder makes the library raise
        raise UserError(f"{where}: no config.json of an encoder can be read there: {error}") from None
    try:
        family = family_of(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not config.tie_word_embeddings:
        raise UserError(f"{where}: token embeddings and output matrix are not tied, which the method needs")
    if config.vocab_size != len(tokenizer):
        raise UserError(
            f"{where}: its vocabulary has {config.vocab_size} pieces, the data's tokenizer {len(tokenizer)}; prepare "
            f"the data with --tokenizer {section.from_checkpoint}"
        )
    _check_positions(config, tokenizer, block_length, where)
    if section.dropout is not None:
        for key in family.dropout_keys:
            setattr(config, key, section.dropout)
    return config


def _load_checkpoint(section: ModelSection, config: PretrainedConfig) -> PreTrainedModel:
    where = f"model.from_checkpoint: {section.from_checkpoint}"
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(
            section.from_checkpoint,
            config=config,
            dtype=torch.float32,
            attn_implementation=section.attention,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except Exception as error:  # as above
        raise UserError(f"{where}: its weights (safetensors) cannot be loaded: {error}") from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"{where}: misses {missing[0]} and {len(missing) - 1} other tensors of a masked-LM model")
    _refuse_untied_tensors(model, section.from_checkpoint, where)
    return model


def _refuse_untied_tensors(model: PreTrainedModel, checkpoint: str, where: str) -> None:
    """The library ties silently, even where the files hold a matrix of its own for the output."""
    holder = _files_of_tensors(checkpoint)
    for name, source in model._tied_weights_keys.items():
        if name in holder and source in holder and not torch.equal(*(_tensor(holder[n], n) for n in (name, source))):
            raise UserError(f"{where}: {name} differs from {source}: not tied, which the method needs")


def _files_of_tensors(checkpoint: str) -> dict[str, str]:
    """Each tensor's name -> the file that holds it, of a checkpoint in a folder or on the hub, whole or in shards."""

    def found(name: str) -> str | None:
        return cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False)

    if index := found("model.safetensors.index.json"):
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        return {name: str(found(shard)) for name, shard in shards.items()}
    whole = found("model.safetensors")
    if whole is None:
        return {}
    with safe_open(whole, framework="pt") as file:
        return dict.fromkeys(file.keys(), whole)


def _tensor(path: str, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)

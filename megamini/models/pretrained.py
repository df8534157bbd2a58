"""Checkpoints of others and our own exports: read with plain `transformers`, refused where nothing could be learned."""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

from megamini.errors import UserError
from megamini.files import is_missing_folder, parse_json, sha256_of
from megamini.library_internals import check_internals
from megamini.models.families import family_of, is_untied
from megamini.models.materialise import Weights

check_internals(__name__)


def load_config(checkpoint: str, where: str, dropout: float | None) -> PretrainedConfig:
    """The configuration of a checkpoint folder or hub name, with `dropout` everywhere where one is given.

    Raises `UserError`, which begins with `where`, for one that cannot be read, is of another family, an encoder that is
    not tied, or a decoder that sees both sides.
    """
    if is_missing_folder(checkpoint):
        raise UserError(f"{where}: no such folder; give one with config.json and model.safetensors, or a hub name")
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except Exception as error:  # whatever a broken folder makes the library raise
        if (Path(checkpoint) / "recipe.yaml").is_file():
            raise UserError(f"{where}: a run, not a model; tools/export.py makes one of a pretraining run") from None
        here = "" if Path(checkpoint).is_dir() else "no such folder here, and as a hub name "
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{where}: {here}no config.json of a model can be read there: {reason}") from None
    try:
        family = family_of(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if getattr(config, "use_bidirectional_attention", None):
        raise UserError(f"{where}: a decoder that sees both sides (use_bidirectional_attention) predicts no next token")
    if not family.causal and not config.tie_word_embeddings:
        raise UserError(f"{where}: token embeddings and output matrix are not tied; use a model that ties them")
    if dropout is not None:
        for key in family.dropout_keys:
            setattr(config, key, dropout)
    return config


def load_lm(
    checkpoint: str, config: PretrainedConfig, attention: str, where: str, fresh_head: bool = False
) -> PreTrainedModel:
    """A checkpoint's masked or causal language model, as its family is, fp32, from safetensors; with `fresh_head` a
    masked one that comes without a head gets one.

    Raises `UserError`, which begins with `where`, for weights that are torn, not all there, or not tied.
    """
    family = family_of(config)
    model, missing = _read(family.auto_class, checkpoint, config, attention, where)
    of_head = _head_tensors(model)
    if fresh_head and not missing:
        raise UserError(f"{where}: has a masked-LM head of its own; objective.method head is for models without one")
    if missing and not fresh_head:
        advice = "; train one first: objective.method: head" if set(missing) <= of_head and not family.causal else ""
        kind = "causal" if family.causal else "masked"
        raise UserError(f"{where}: misses {missing[0]} and {len(missing) - 1} other tensors of a {kind} LM{advice}")
    if not set(missing) <= of_head:
        raise UserError(f"{where}: misses {min(set(missing) - of_head)}, which is no part of the head")
    _refuse_untied_tensors(model, checkpoint, where)
    return model


def stored_weights(checkpoint: str, outline: PreTrainedModel, where: str) -> Weights | None:
    """What reads a checkpoint's tensors one by one, by the names in the state dict of `outline`, on the meta device.

    None where its files do not hold all of these in their shapes: older names, other prefixes and torn files are for
    the library. Raises `UserError`, which begins with `where`, for weights that are not tied.
    """
    files, stored = _files_of_tensors(checkpoint), family_of(outline.config).stored_name
    for name, tensor in saved_tensors(outline).items():
        if stored(name) not in files or _shape(files[stored(name)], stored(name)) != tensor.shape:
            return None
    _refuse_untied_tensors(outline, checkpoint, where)
    return lambda name: _tensor(files[stored(name)], stored(name)) if stored(name) in files else None


def saved_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a checkpoint of the model holds: its state dict, but each tied tensor once."""
    return {name: value for name, value in model.state_dict().items() if name not in model.all_tied_weights_keys}


def names_in_files(model: PreTrainedModel) -> dict[str, str]:
    """Name in a checkpoint's files -> name in the state dict, of each of `saved_tensors`."""
    stored_name = family_of(model.config).stored_name
    return {stored_name(name): name for name in saved_tensors(model)}


def load_model(
    model_class: Any,
    checkpoint: str,
    config: PretrainedConfig,
    where: str,
    fresh: re.Pattern[str] | None = None,
    attention: str | None = None,
) -> PreTrainedModel:
    """A checkpoint as a model of any `model_class`, fp32. Weights whose names match `fresh` may be missing: they start
    anew. Raises `UserError`, which begins with `where`, for any other that is missing, and for torn files."""
    model, missing = _read(model_class, checkpoint, config, attention, where)
    lost = [name for name in missing if fresh is None or not fresh.search(name)]
    if lost:
        raise UserError(f"{where}: misses {lost[0]} and {len(lost) - 1} other tensors; fetch it again")
    return model


def outline_with_embeddings(model_class: Any, checkpoint: str, config: PretrainedConfig, where: str) -> PreTrainedModel:
    """A checkpoint as a model of `model_class` without weights, on the meta device, but for its token embeddings and an
    output matrix of its own: what lineage is told by. Raises `UserError`, which begins with `where`, for torn files."""
    with torch.device("meta"):
        model = model_class.from_config(config)
    modules = [model.get_input_embeddings()]
    if is_untied(config) and model.get_output_embeddings() is not None:
        modules.append(model.get_output_embeddings())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    files, stored = _files_of_tensors(checkpoint), family_of(config).stored_name
    for module in modules:
        name = stored(names[id(module.weight)])
        if name not in files:  # older names and torn files are for the library
            return load_model(model_class, checkpoint, config, where)
        module.weight = torch.nn.Parameter(_tensor(files[name], name).float(), requires_grad=False)
    return model


def _read(
    model_class: Any, checkpoint: str, config: PretrainedConfig, attention: str | None, where: str
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of its tensors that the files do not hold."""
    if (index := Path(checkpoint) / SAFE_WEIGHTS_INDEX_NAME).exists():
        _weight_map(index)  # the library would follow it anywhere
    try:
        model, report = model_class.from_pretrained(
            checkpoint,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except Exception as error:  # whatever a broken folder makes the library raise
        raise UserError(f"{where}: its weights (safetensors) cannot be loaded: {error}") from None
    return model, sorted(report["missing_keys"])


def _head_tensors(model: PreTrainedModel) -> set[str]:
    """Names of what lies outside the body and its tied matrix."""
    body = f"{model.base_model_prefix}."
    return {name for name in model.state_dict() if not name.startswith(body)}


def _refuse_untied_tensors(model: PreTrainedModel, checkpoint: str, where: str) -> None:
    """The library ties silently, even where the files hold a matrix of its own for the output."""
    if is_untied(model.config):
        return
    holder = _files_of_tensors(checkpoint)
    for name, source in model._tied_weights_keys.items():
        if name in holder and source in holder and not torch.equal(*(_tensor(holder[n], n) for n in (name, source))):
            raise UserError(f"{where}: {name} differs from {source}: not tied, but the method needs one matrix")


def _files_of_tensors(checkpoint: str) -> dict[str, str]:
    """Each tensor's name -> the file that holds it, of a checkpoint in a folder or on the hub, whole or in shards."""

    def found(name: str) -> str | None:
        return cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False)

    if index := found(SAFE_WEIGHTS_INDEX_NAME):
        return {name: str(found(shard)) for name, shard in _weight_map(Path(index)).items()}
    whole = found("model.safetensors")
    if whole is None:
        return {}
    try:
        with safe_open(whole, framework="pt") as file:
            return dict.fromkeys(file.keys(), whole)
    except SafetensorError:
        return {}  # the library says what is wrong with it


def _weight_map(index: Path) -> dict[str, str]:
    """Each tensor's name -> the name of its file beside `index`. Raises `UserError` for a torn one, and for files that
    are elsewhere."""
    try:
        shards = parse_json(index.read_bytes())["weight_map"]
        strange = [file for file in shards.values() if Path(file).name != file or not file.endswith(".safetensors")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{index}: does not say which file holds which tensor: {reason}; fetch it again") from None
    if strange:
        raise UserError(f"{index}: names '{strange[0]}', which is no safetensors file beside it; fetch it again")
    return shards


def weights_fingerprint(checkpoint: str) -> str:
    """SHA-256 over the files that hold a checkpoint's weights: what was built on it belongs to these weights alone."""
    digest = hashlib.sha256()
    for path in sorted(set(_files_of_tensors(checkpoint).values())):
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def _shape(path: str, name: str) -> torch.Size | None:
    try:
        with safe_open(path, framework="pt") as file:
            return torch.Size(file.get_slice(name).get_shape())
    except (SafetensorError, OSError):
        return None


def _tensor(path: str, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)

"""A fine-tuned model on disk: an ordinary checkpoint whose `config.json` also says its task and lineage."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.files import is_missing_folder
from megamini.data.tokenizer import load_tokenizer
from megamini.downstream.kinds.by_name import KINDS
from megamini.downstream.limits import Limits
from megamini.errors import UserError
from megamini.models.lineage import lineage_of


@dataclass(frozen=True)
class TaskModel:
    """A fine-tuned model with what evaluation needs to know about it."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: str
    limits: Limits
    seed: int | None


def describe_task(task: str, kind: str, language: str, seed: int, limits: Limits) -> dict[str, Any]:
    """What a fine-tuned `config.json` says under `megamini`, beside the lineage."""
    return {"task": task, "kind": kind, "language": language, "seed": seed, "limits": asdict(limits)}


def declared_lineage(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The lineage of a model and, where a pack is plugged into it, that pack's language: its own matrix is gone then,
    and what it declares counts."""
    declared = getattr(model.config, "megamini", None) or {}
    if declared.get("plugged"):
        return {"lineage": declared["lineage"], "plugged": declared["plugged"]}
    return {"lineage": lineage_of(model, tokenizer)}


def load_task_model(folder: Path, device: torch.device) -> TaskModel:
    """Read a fine-tuned model. Raises UserError where it is none, or torn."""
    config = read_config(str(folder))
    description = getattr(config, "megamini", None) or {}
    try:
        kind, limits = description["kind"], Limits(**description["limits"])
        model_class = KINDS[kind].auto_class
    except (KeyError, TypeError):
        raise UserError(
            f"{folder}: not a fine-tuned model (its config.json names no task); launch/finetune.py makes one"
        ) from None
    model = load_model(model_class, str(folder), config)
    return TaskModel(folder, model.to(device).eval(), load_tokenizer(folder), kind, limits, description.get("seed"))


def read_config(name: str) -> Any:
    """The configuration of a checkpoint, a folder or a name on the hub."""
    if is_missing_folder(name):
        raise UserError(f"{name}: no such folder; give the folder of a checkpoint (config.json, model.safetensors)")
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        # Whatever a broken folder makes the library raise, it comes from what the user named.
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{name}: no configuration can be read from there: {reason}") from None


def load_model(
    model_class: Any, name: str, config: Any, fresh: re.Pattern[str] | None = None, **options: Any
) -> PreTrainedModel:
    """A checkpoint in fp32 as a model of `model_class`. Weights whose names match `fresh` may be missing there, and
    start anew. Raises UserError for any other weight that is missing, and for a checkpoint that cannot be read."""
    try:
        model, report = model_class.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{name}: the checkpoint cannot be loaded: {reason}") from None
    missing = [key for key in sorted(report["missing_keys"]) if fresh is None or not fresh.search(key)]
    if missing:
        raise UserError(f"{name}: the checkpoint lacks weights, {missing[0]} among {len(missing)}; torn?")
    return model

"""A fine-tuned model on disk: an ordinary checkpoint whose `config.json` also says its task and lineage."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import load_tokenizer
from megamini.downstream.kinds.by_name import KINDS
from megamini.downstream.kinds.limits import Limits
from megamini.errors import UserError
from megamini.models.lineage import declared_lineage, lineage_of
from megamini.models.pretrained import load_config, load_model


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


def lineage_entries(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a model fine-tuned from this one says of its lineage and, where a pack is plugged in, of that."""
    declared = declared_lineage(model)
    if declared:
        told = ("plugged", "pack_kind", "own_pieces")
        return {"lineage": declared, **{key: value for key, value in model.config.megamini.items() if key in told}}
    return {"lineage": lineage_of(model, tokenizer)}


def load_task_model(folder: Path, device: torch.device) -> TaskModel:
    """Read a fine-tuned model. Raises UserError where it is none, or torn."""
    config, kind, limits = read_task(folder)
    model = load_model(KINDS[kind].auto_class, str(folder), config, str(folder)).to(device).eval()
    return TaskModel(folder, model, load_tokenizer(folder), kind, limits, config.megamini.get("seed"))


def read_task(folder: Path) -> tuple[PretrainedConfig, str, Limits]:
    """Configuration of a fine-tuned model, kind of its task, and limits. Raises UserError where it is none."""
    config = load_config(str(folder), str(folder), dropout=None)
    description = getattr(config, "megamini", None) or {}
    try:
        kind, limits = description["kind"], Limits(**description["limits"])
        KINDS[kind]
    except (KeyError, TypeError):
        raise UserError(
            f"{folder}: not a fine-tuned model (its config.json names no task); launch/finetune.py makes one"
        ) from None
    return config, kind, limits

"""Lineage: which source embeddings and tokenizer a model speaks, so that a pack is only plugged where it fits."""

import hashlib

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import fingerprint


def embedding_fingerprint(matrix: torch.Tensor) -> str:
    """SHA-256 of a token embedding matrix [V, d] rounded to bf16, the same whatever precision it is stored in."""
    rounded = matrix.detach().cpu().to(torch.bfloat16).contiguous()
    return hashlib.sha256(rounded.view(torch.int16).numpy().tobytes()).hexdigest()


def lineage_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The lineage recorded under `megamini` in an exported `config.json`."""
    return lineage(model.get_input_embeddings().weight, tokenizer)


def lineage(matrix: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The lineage of a model with this token embedding matrix [V, d]."""
    return {"embeddings_sha256": embedding_fingerprint(matrix), "tokenizer_sha256": fingerprint(tokenizer)}


def declared_lineage(model: PreTrainedModel) -> dict[str, str] | None:
    """The lineage that a model with a pack plugged in declares: it no longer holds its source matrix. Else None."""
    declared = getattr(model.config, "megamini", None) or {}
    return declared.get("lineage") if declared.get("plugged") else None

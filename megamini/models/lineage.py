"""Lineage: fingerprint of a model's source embeddings and tokenizer; a pack is plugged only where it is the same."""

import hashlib
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import fingerprint
from megamini.errors import UserError

Lineage = dict[str, Any]
"""embeddings_sha256, tokenizer_sha256; also_sha256: what the embeddings are known by too, as once they were in fp16."""


def embedding_fingerprint(matrix: torch.Tensor) -> str:
    """SHA-256 of a token embedding matrix [V, d] rounded to bf16, the same whether it is stored in fp32 or bf16."""
    rounded = matrix.detach().cpu().to(torch.bfloat16).contiguous()
    return hashlib.sha256(rounded.view(torch.int16).numpy().tobytes()).hexdigest()


def lineage_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Lineage:
    """The lineage recorded under `megamini` in an exported `config.json`."""
    return lineage(model.get_input_embeddings().weight, tokenizer)


def lineage(matrix: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> Lineage:
    """The lineage of a model with this token embedding matrix [V, d]. Rows behind the tokenizer's pieces, by which some
    checkpoints are filled up to a round size, are not looked at: nothing reads them."""
    rows = matrix.detach().cpu()[: len(tokenizer)]
    also = {embedding_fingerprint(some.half()) for some in (rows, rows.to(torch.bfloat16))}
    if len(rows) < len(matrix):  # as earlier versions have called it
        also.add(embedding_fingerprint(matrix))
    return {
        "embeddings_sha256": embedding_fingerprint(rows),
        "also_sha256": sorted(also),
        "tokenizer_sha256": fingerprint(tokenizer),
    }


def same_embeddings(one: Lineage, other: Lineage) -> bool:
    """Whether two matrices are one, in whatever precision each was stored since."""

    def names(of: Lineage) -> set[str]:
        return {of["embeddings_sha256"], *of.get("also_sha256", [])}

    return one["embeddings_sha256"] in names(other) or other["embeddings_sha256"] in names(one)


def same_lineage(one: Lineage, other: Lineage) -> bool:
    """Whether what was learned beside one is of use beside the other."""
    return one["tokenizer_sha256"] == other["tokenizer_sha256"] and same_embeddings(one, other)


def described(config: PretrainedConfig) -> dict[str, Any]:
    """What `config.json` says under `megamini`; nothing where others have put something else there."""
    entry = getattr(config, "megamini", None)
    return dict(entry) if isinstance(entry, dict) else {}


def declared_lineage(model: PreTrainedModel) -> Lineage | None:
    """The lineage that a model with a pack plugged in declares: it no longer holds its source matrix. Else None."""
    entry = described(model.config)
    if not entry.get("plugged"):
        return None
    check_lineage(entry.get("lineage"), f"{model.config.name_or_path or 'the model'}: config.json: megamini.lineage")
    return entry["lineage"]


def check_lineage(value: Any, where: str) -> None:
    """Raise `UserError`, which begins with `where`, for what is not of the shape of a lineage."""
    named = isinstance(value, dict) and all(
        isinstance(value.get(key), str) for key in ("embeddings_sha256", "tokenizer_sha256")
    )
    also = value.get("also_sha256", []) if named else None
    if not isinstance(also, list) or not all(isinstance(one, str) for one in also):
        raise UserError(f"{where}: not a lineage, which names the source's embeddings and tokenizer; fetch it again")

"""Lineage: fingerprint of a model's source embeddings and tokenizer; a pack is plugged only where it is the same."""

import hashlib
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.tokenizer import fingerprint
from megamini.errors import UserError
from megamini.models.families import is_untied

Lineage = dict[str, Any]
"""embeddings_sha256, tokenizer_sha256; also_sha256: what the embeddings are known by too, as once they were in fp16.
output_sha256, output_also_sha256: the same of an output matrix that is not tied to them."""


def embedding_fingerprint(matrix: torch.Tensor) -> str:
    """SHA-256 of a token embedding matrix [V, d] rounded to bf16, the same whether it is stored in fp32 or bf16."""
    rounded = matrix.detach().cpu().to(torch.bfloat16).contiguous()
    return hashlib.sha256(rounded.view(torch.int16).numpy().tobytes()).hexdigest()


def lineage_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Lineage:
    """The lineage recorded under `megamini` in an exported `config.json`."""
    output = output_matrix_of(model)
    return lineage(model.get_input_embeddings().weight, tokenizer, output)


def output_matrix_of(model: PreTrainedModel) -> torch.Tensor | None:
    """The output matrix of a language model that does not tie it; of others, and of task models, None."""
    output = model.get_output_embeddings()
    return output.weight if output is not None and is_untied(model.config) else None


def lineage(matrix: torch.Tensor, tokenizer: PreTrainedTokenizerBase, output: torch.Tensor | None = None) -> Lineage:
    """The lineage of a model with this token embedding matrix [V, d], and an output matrix of its own. Rows behind the
    tokenizer's pieces, by which some checkpoints are filled up to a round size, are not looked at: nothing reads them.
    """
    own, also = _names(matrix, len(tokenizer))
    found = {"embeddings_sha256": own, "also_sha256": also, "tokenizer_sha256": fingerprint(tokenizer)}
    if output is not None:
        found["output_sha256"], found["output_also_sha256"] = _names(output, len(tokenizer))
    return found


def _names(matrix: torch.Tensor, pieces: int) -> tuple[str, list[str]]:
    """What a matrix is known by, and what it may be known by too."""
    rows = matrix.detach().cpu()[:pieces]
    also = {embedding_fingerprint(some.half()) for some in (rows, rows.to(torch.bfloat16))}
    if len(rows) < len(matrix):  # as earlier versions have called it
        also.add(embedding_fingerprint(matrix))
    return embedding_fingerprint(rows), sorted(also)


def same_embeddings(one: Lineage, other: Lineage) -> bool:
    """Whether two matrices are one, in whatever precision each was stored since; and so the output matrices, where both
    have one."""

    def same(key: str, also: str) -> bool:
        first, second = ({of[key], *of.get(also, [])} for of in (one, other))
        return one[key] in second or other[key] in first

    if not same("embeddings_sha256", "also_sha256"):
        return False
    both = "output_sha256" in one and "output_sha256" in other
    return not both or same("output_sha256", "output_also_sha256")


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
    more = [value.get(key, []) for key in ("also_sha256", "output_also_sha256")] if named else [None]
    lists = all(isinstance(also, list) and all(isinstance(one, str) for one in also) for also in more)
    if not lists or not isinstance(value.get("output_sha256", ""), str):
        raise UserError(f"{where}: not a lineage, which names the source's embeddings and tokenizer; fetch it again")

"""A Unigram tokenizer with another vocabulary: pieces behind those that it has, or at the ids of some."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from megamini.data.tokenizer import NEVER_MATCHED, component_types, special_ids
from megamini.errors import UserError

Piece = tuple[str, float]  # and its score, a natural logarithm

_KEPT = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def check_unigram(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raise UserError, which begins with `where`, for a tokenizer whose vocabulary cannot be changed here."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if (kind := backend["model"]["type"]) != "Unigram":
        raise UserError(f"{where}: a {kind} tokenizer; only a Unigram one can take new pieces beside its own")
    splitting = backend["pre_tokenizer"] or {}
    parts = splitting.get("pretokenizers", [splitting])
    by_space = any(part.get("type") == "WhitespaceSplit" for part in parts)
    by_mark = any(part.get("type") == "Metaspace" and part.get("split", True) for part in parts)
    if not by_space and not by_mark:
        found = ", ".join(sorted(component_types(splitting))) or "nothing"
        raise UserError(f"{where}: does not cut text at spaces (pre-tokenizer: {found}), so pieces reach across words")
    if backend["model"]["unk_id"] is None:
        raise UserError(f"{where}: has no unknown token, so there may be text that it cannot read")
    if len(tokenizer) != len(backend["model"]["vocab"]):
        extra = len(tokenizer) - len(backend["model"]["vocab"])
        raise UserError(f"{where}: has {extra} added tokens behind its vocabulary, where new pieces would go")


def pieces_of(tokenizer: PreTrainedTokenizerBase) -> list[Piece] | None:
    """All pieces by id, with their scores; None for a tokenizer of another model than Unigram."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return [(piece, score) for piece, score in model["vocab"]] if model["type"] == "Unigram" else None


def spelled_pieces(tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """The pieces that text is cut into, with their scores: no special ones, no bytes."""
    specials = set(special_ids(tokenizer).tolist()) | set(tokenizer.added_tokens_decoder)
    bytes_too = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("byte_fallback")
    return {
        piece: score
        for number, (piece, score) in enumerate(pieces_of(tokenizer))
        if number not in specials and score > NEVER_MATCHED and not (bytes_too and _BYTE.fullmatch(piece))
    }


def with_pieces(
    tokenizer: PreTrainedTokenizerBase, added: Sequence[Piece], replaced: Mapping[int, Piece] | None = None
) -> PreTrainedTokenizerFast:
    """The tokenizer with pieces behind its own, and others at ids of its own."""
    pieces = pieces_of(tokenizer)
    for number, piece in (replaced or {}).items():
        pieces[number] = piece
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["vocab"] = [list(piece) for piece in (*pieces, *added)]
    return rebuilt(tokenizer, backend)


def rebuilt(tokenizer: PreTrainedTokenizerBase, backend: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer with another Rust part, as JSON, that has the same special tokens, perhaps at other ids."""
    kept = {key: getattr(tokenizer, key) for key in _KEPT if hasattr(tokenizer, key)}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    backend = {**backend, "padding": None}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), **special, **kept)

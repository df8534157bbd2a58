"""Three kinds of packs: what a language's vocabulary is beside the source's.

* swapped: a vocabulary of its own, whose rows take the place of all of the source's.
* extension: pieces behind the source's, which stay (`data.vocabulary.extension`). The pack holds the new rows alone.
* replacement: pieces at the ids of some of the source's; the others stay. The pack holds the rows at these ids alone.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.adaptation.packs import own_embeddings
from megamini.adaptation.packs.own_embeddings import projection, token_matrix
from megamini.data.tokenizer import NEVER_MATCHED
from megamini.data.vocabulary.extension import added_pieces
from megamini.data.vocabulary.unigram import pieces_of, with_pieces
from megamini.errors import UserError
from megamini.models.lineage import described, output_matrix_of

Kind = Literal["swapped", "extension", "replacement"]


def kind_beside(
    tokenizer: PreTrainedTokenizerBase, source: PreTrainedTokenizerBase
) -> tuple[Kind, torch.Tensor | None]:
    """The kind of a pack with this tokenizer over a source with that one, and the ids that are its own, int64 [N],
    ascending; None for all."""
    if added_pieces(tokenizer, source) is not None:
        return "extension", torch.arange(len(source), len(tokenizer))
    ours, theirs = pieces_of(tokenizer), pieces_of(source)
    if ours is None or theirs is None or len(ours) != len(theirs) or ours == theirs:
        return "swapped", None
    # Tokenizers that were trained each for itself have no scores in common, to the last bit.
    ordinary = [number for number, (_, score) in enumerate(theirs) if score > NEVER_MATCHED]
    own = [number for number, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]
    common = len(ordinary) - len(set(ordinary) & set(own))
    return ("replacement", torch.tensor(own)) if 2 * common >= len(ordinary) else ("swapped", None)


@dataclass(frozen=True)
class Vocabulary:
    """What a model is to speak: matrix fp [V, d], output bias fp [V] or None, output matrix fp [V, d] where it is not
    tied, tokenizer; and what its configuration is to say of it. left_out: how many rows of an extension are not in it,
    since another one brought their pieces."""

    matrix: torch.Tensor
    bias: torch.Tensor | None
    output: torch.Tensor | None
    tokenizer: PreTrainedTokenizerBase
    entry: dict[str, Any]
    left_out: int = 0


def plugged_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    ids: torch.Tensor | None,
    own: PreTrainedTokenizerBase,
    where: str,
) -> Vocabulary:
    """What `model`, which speaks `tokenizer`, is to speak once a pack is in it.

    rows: the pack's matrix [N, d], output bias [N], and output matrix [N, d] if it has one. ids: those of a
    replacement. own: the pack's tokenizer. An extension goes beside others that are there, whose rows stay, also those
    of pieces that it has too; any other pack is taken out for it. Raises UserError, which begins with `where`, where
    the pieces of the pack do not fit, or an extension would change nothing.
    """
    if kind == "swapped":
        return Vocabulary(*rows, own, {})
    entry = described(model.config)
    beside = kind == "extension" and entry.get("pack_kind") == "extension"
    kept = own_embeddings.kept(model)
    if entry.get("plugged") and not beside:
        if kept is None:
            raise UserError(
                f"{where}: goes beside the model's own vocabulary, which '{entry['plugged']}' has replaced; "
                "load the model without that pack"
            )
        matrix, bias, output, tokenizer = kept.matrix, kept.output_bias, kept.output_matrix, kept.tokenizer
    else:
        head, output = projection(model), output_matrix_of(model)
        matrix, bias = token_matrix(model).detach(), None if head is None or head.bias is None else head.bias
    source = entry.get("own_pieces") if beside else len(tokenizer)
    if not isinstance(source, int) or isinstance(source, bool) or not 0 < source <= len(tokenizer):
        raise UserError(f"{where}: the model's config.json: megamini.own_pieces is {source!r}; export the model again")
    new = tuple(None if one is None else one.to(matrix.device, matrix.dtype) for one in rows)
    if new[2] is None or output is None:  # tied; or a task model, which projects onto no vocabulary
        output = None
    told = {"pack_kind": kind, "own_pieces": source}  # a task model says under `kind` of what kind its task is
    if kind == "replacement":
        replaced = set(ids.tolist())
        now, theirs = (one.convert_ids_to_tokens(list(range(len(one)))) for one in (tokenizer, own))
        kept_alike = [
            number in replaced or pair[0] == pair[1] for number, pair in enumerate(zip(now, theirs, strict=False))
        ]
        if len(now) != len(theirs) or not all(kept_alike) or replaced & set(tokenizer.all_special_ids):
            raise UserError(f"{where}: its tokenizer is no replacement of pieces of the model's")
        ids = ids.to(matrix.device)
        changed = [
            None if one is None else one.detach().index_copy(0, ids, its)
            for one, its in zip((matrix, bias, output), new, strict=True)
        ]
        return Vocabulary(*changed, own, told)
    now, theirs = pieces_of(tokenizer), pieces_of(own)
    if now is None or theirs is None or theirs[:source] != now[:source] or len(theirs) != source + len(new[0]):
        raise UserError(f"{where}: its tokenizer is no extension of the model's")
    there = {piece: number for number, (piece, _) in enumerate(now)}
    fresh = [number for number, (piece, _) in enumerate(theirs[source:]) if piece not in there]
    shared = {n: there[p] for n, (p, _) in enumerate(theirs[source:]) if p in there}
    left_out = _other_rows((matrix, bias, output), new, shared)
    if left_out and not fresh:
        raise UserError(
            f"{where}: all its pieces are in the model already, with other rows, such as an earlier pack's; unplug "
            "that first, or load the model without it"
        )
    joined = own if len(now) == source else with_pieces(tokenizer, [theirs[source + n] for n in fresh])
    chosen = torch.tensor(fresh, dtype=torch.int64, device=matrix.device)
    longer = [
        None if one is None else torch.cat([one.detach()[: len(now)], its[chosen]])
        for one, its in zip((matrix, bias, output), new, strict=True)
    ]
    return Vocabulary(*longer, joined, told, left_out)


def _other_rows(
    held: tuple[torch.Tensor | None, ...], new: tuple[torch.Tensor | None, ...], shared: dict[int, int]
) -> int:
    """How many of the new rows differ from those in the model of the same piece. held, new: token matrix, output bias,
    output matrix. shared: number of row -> id."""
    device = new[0].device
    ours, ids = (torch.tensor(list(some), dtype=torch.int64, device=device) for some in (shared, shared.values()))
    differ = torch.zeros(len(ours), dtype=torch.bool, device=device)
    for one, its in zip(held, new, strict=True):
        if one is not None:
            differ |= (one.detach()[ids] != its[ours]).unsqueeze(-1).flatten(1).any(1)
    return int(differ.sum())


def check_rows(kind: Kind, rows: int, ids: torch.Tensor | None, pieces: int, where: str) -> None:
    """Raise UserError, which begins with `where`, where a pack's number of rows does not fit its tokenizer."""
    fits = {"swapped": rows == pieces, "extension": 0 < rows < pieces, "replacement": 0 < rows < pieces}[kind]
    if kind == "replacement" and fits:
        fits = (
            ids is not None
            and ids.dtype == torch.int64
            and ids.shape == (rows,)
            and bool(np.all(np.diff(ids.numpy(), prepend=-1, append=pieces) > 0))
        )
    if not fits:
        raise UserError(f"{where}: the tokenizer has {pieces} pieces for {rows} rows; fetch the pack again")

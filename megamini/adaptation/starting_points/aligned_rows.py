"""Rows of pieces that an alignment knows: each the mean of the source pieces that it stands for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from megamini.adaptation.starting_points.alignment import align
from megamini.adaptation.starting_points.piece_forms import Form
from megamini.data.tokenizer import encoder

LEAST_AGREEMENT = 0.1  # of both directions: below it, an alignment says less than the mixtures of focus


@dataclass(frozen=True)
class AlignedRows:
    """rows: fp32 [V_t, d], zero where there is none. aligned: bool [V_t], pieces that have one. mixed: bool [V_t],
    which of them stand for several source pieces."""

    rows: torch.Tensor
    aligned: np.ndarray
    mixed: np.ndarray


def aligned_rows(
    texts: Sequence[tuple[str, str]],
    source_matrix: torch.Tensor,
    source_tokenizer: PreTrainedTokenizerBase,
    source_forms: list[Form | None],
    target_tokenizer: PreTrainedTokenizerBase,
    target_forms: list[Form | None],
) -> AlignedRows:
    """From texts (target, source) that say the same: sentences, or entries of a word list."""
    pairs = zip(
        _ids([target for target, _ in texts], target_tokenizer, target_forms),
        _ids([source for _, source in texts], source_tokenizer, source_forms),
        strict=True,
    )
    found = align(list(pairs), len(target_forms), len(source_forms))
    aligned = found.agreement >= LEAST_AGREEMENT
    rows = np.zeros((len(target_forms), source_matrix.shape[1]))
    rows[aligned] = found.shares[aligned] @ source_matrix.double().numpy()
    mixed = aligned & (np.diff(found.shares.indptr) > 1)
    return AlignedRows(torch.from_numpy(rows).float(), aligned, mixed)


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase, forms: list[Form | None]) -> list[list[int]]:
    """The ids of each text's pieces, without special ones and bare word marks, which stand for nothing."""
    encodings = encoder(tokenizer).encode_batch(texts, add_special_tokens=False)
    return [[number for number in one.ids if forms[number] is not None and forms[number].text] for one in encodings]

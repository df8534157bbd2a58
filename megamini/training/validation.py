"""Validation of heads beside the unigram model: loss and bits per byte over one fixed draw of masks."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from megamini.data.batches import Batch, validation_batches
from megamini.machine import device_of_sums
from megamini.training.engines.engine import Engine
from megamini.training.text import Text

UNIGRAM = "unigram"


class MaskedSums:
    """Sums over the masked positions of a text, in float64: the negative log-likelihoods (nats) by each of several
    heads, how many pieces were masked, and the UTF-8 bytes that these stand for."""

    def __init__(self, heads: int, piece_bytes: np.ndarray, device: torch.device) -> None:
        """piece_bytes: UTF-8 bytes of each piece, int32 [V]. device: of the losses."""
        self.values = torch.zeros(heads + 2, dtype=torch.float64, device=device_of_sums(device))
        self._bytes_of = torch.from_numpy(piece_bytes).to(device)

    def add(self, losses: torch.Tensor, batch: Batch) -> None:
        """`losses`: negative log-likelihoods at the batch's masked positions, fp32 [heads, R]."""
        of_text = torch.stack([batch.weights.sum(), (self._bytes_of[batch.labels] * batch.weights).sum()])
        self.values += torch.cat([(losses * batch.weights).sum(1), of_text]).to(self.values.device)


def bits_per_byte(nats: float, text_bytes: float) -> float:
    """Negative log-likelihoods of masked pieces, summed / ln 2 / the pieces' UTF-8 bytes: a pseudo-likelihood, so only
    roughly comparable across tokenizers, and no promise of transfer (docs/method.md)."""
    return nats / math.log(2) / text_bytes


def measure(
    engine: Engine,
    text: Text,
    heads: Sequence[str],
    evaluate: Callable[[Batch], torch.Tensor],
    most_blocks: int,
    micro_batch: int,
) -> dict[str, float]:
    """Loss (nats per masked piece) and bits per byte of the `heads` and of the unigram model. *All ranks.*

    `evaluate` gives the heads' negative log-likelihoods at a batch's masked positions, fp32 [heads, R]. Their share is
    that of the end of the run all along, so that losses can be compared where training masks other shares before.
    Sums and counts are added up over batches and ranks, so the result does not depend on either. All ranks get the same
    numbers, under `loss_HEAD` and `bits_per_byte_HEAD`.
    """
    names = (*heads, UNIGRAM)
    sums = MaskedSums(len(names), text.piece_bytes, engine.device)
    unigram_nats = torch.from_numpy(text.unigram_nats).to(engine.device)
    for batch in validation_batches(
        text.validation, text.masking, most_blocks, micro_batch, engine.rank, engine.world_size
    ):
        batch = batch.to(engine.device)
        sums.add(torch.cat([evaluate(batch), unigram_nats[batch.labels][None]]), batch)
    *totals, pieces, text_bytes = engine.sum_over_ranks(sums.values).tolist()
    values = {f"loss_{name}": total / pieces for name, total in zip(names, totals, strict=True)}
    return values | {
        f"bits_per_byte_{name}": bits_per_byte(total, text_bytes) for name, total in zip(names, totals, strict=True)
    }

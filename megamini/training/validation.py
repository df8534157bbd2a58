"""Validation of heads beside the unigram model: loss and bits per byte over one fixed draw of masks."""

import math
from collections.abc import Callable, Sequence

import torch

from megamini.data.batches import Batch, validation_batches
from megamini.device import device_of_sums
from megamini.training.engines import Engine
from megamini.training.text import Text

UNIGRAM = "unigram"


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
    Bits per byte: the sum of the masked pieces' negative log-likelihoods / ln 2 / their UTF-8 bytes; a
    pseudo-likelihood, so only roughly comparable across tokenizers. Sums and counts are added up over batches and
    ranks, so the result does not depend on either. All ranks get the same numbers, under `loss_HEAD` and
    `bits_per_byte_HEAD`.
    """
    names = (*heads, UNIGRAM)
    # float64 sums: the losses of each of these, then the masked pieces and their bytes.
    sums = torch.zeros(len(names) + 2, dtype=torch.float64, device=device_of_sums(engine.device))
    bytes_of = torch.from_numpy(text.piece_bytes).to(engine.device)
    unigram_nats = torch.from_numpy(text.unigram_nats).to(engine.device)
    for batch in validation_batches(
        text.validation, text.masking, most_blocks, micro_batch, engine.rank, engine.world_size
    ):
        batch = batch.to(engine.device)
        losses = torch.cat([evaluate(batch), unigram_nats[batch.labels][None]])
        of_text = torch.stack([batch.weights.sum(), (bytes_of[batch.labels] * batch.weights).sum()])
        sums += torch.cat([(losses * batch.weights).sum(1), of_text]).to(sums.device)
    *totals, pieces, text_bytes = engine.sum_over_ranks(sums).tolist()
    values = {f"loss_{name}": total / pieces for name, total in zip(names, totals, strict=True)}
    return values | {
        f"bits_per_byte_{name}": total / math.log(2) / text_bytes for name, total in zip(names, totals, strict=True)
    }

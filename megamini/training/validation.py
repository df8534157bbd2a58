"""Validation on every head, beside the unigram model: loss and bits per byte over one fixed draw of masks."""

import math

import torch

from megamini.data.batches import validation_batches
from megamini.training.engines import Engine
from megamini.training.setup import Setup


def validate(engine: Engine, setup: Setup) -> dict[str, float]:
    """Loss (nats per masked piece) and bits per byte of every head and of the unigram model. *All ranks.*

    Bits per byte: the sum of the masked pieces' negative log-likelihoods / ln 2 / their UTF-8 bytes; a
    pseudo-likelihood, so only roughly comparable across tokenizers. Sums and counts are added up over batches and
    ranks, so the result does not depend on either. All ranks get the same numbers.
    """
    names = (*engine.model.head_names, "unigram")
    # float64 sums: the losses of each of these, then the masked pieces and their bytes.
    sums = torch.zeros(len(names) + 2, dtype=torch.float64, device=engine.device)
    bytes_of = torch.from_numpy(setup.piece_bytes).to(engine.device)
    unigram_nats = torch.from_numpy(setup.unigram_nats).to(engine.device)
    for batch in validation_batches(
        setup.validation_blocks,
        setup.masking,
        setup.recipe.telemetry.validation_blocks,
        setup.batches.micro_batch,
        engine.rank,
        engine.world_size,
    ):
        batch = batch.to(engine.device)
        losses = torch.cat([engine.evaluate(batch), unigram_nats[batch.labels][None]])
        sums[:-2] += (losses * batch.weights).sum(1)
        sums[-2] += batch.weights.sum()
        sums[-1] += (bytes_of[batch.labels] * batch.weights).sum()
    *totals, pieces, text_bytes = engine.sum_over_ranks(sums).tolist()
    values = {f"validation/loss_{name}": total / pieces for name, total in zip(names, totals, strict=True)}
    return values | {
        f"validation/bits_per_byte_{name}": total / math.log(2) / text_bytes
        for name, total in zip(names, totals, strict=True)
    }

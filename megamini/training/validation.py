"""Validation on every head: masked-LM loss and bits per byte over one fixed draw of masks."""

import math

import numpy as np
import torch

from megamini.data.batches import validation_batches
from megamini.data.blocks import Blocks
from megamini.data.masking import MaskingRule
from megamini.training.engines import Engine


def validate(
    engine: Engine, blocks: Blocks, rule: MaskingRule, piece_bytes: np.ndarray, most_blocks: int, micro_batch: int
) -> dict[str, float]:
    """Loss (nats per masked piece) and bits per byte of every head. *All ranks*; all get the same numbers.

    Bits per byte: the sum of the masked pieces' negative log-likelihoods / ln 2 / their UTF-8 bytes; a
    pseudo-likelihood, so only roughly comparable across tokenizers. Sums and counts are added up over batches and
    ranks, so the result does not depend on either.
    """
    heads = engine.model.head_names
    # float64 sums: the losses of each head, then the masked pieces and their bytes
    sums = torch.zeros(len(heads) + 2, dtype=torch.float64, device=engine.device)
    bytes_of = torch.from_numpy(piece_bytes).to(engine.device)
    for batch in validation_batches(blocks, rule, most_blocks, micro_batch, engine.rank, engine.world_size):
        batch = batch.to(engine.device)
        losses = engine.evaluate(batch)
        sums[: len(heads)] += (losses * batch.weights).sum(1)
        sums[-2] += batch.weights.sum()
        sums[-1] += (bytes_of[batch.labels] * batch.weights).sum()
    *totals, pieces, text_bytes = engine.sum_over_ranks(sums).tolist()
    values = {}
    for head, total in zip(heads, totals, strict=True):
        values[f"validation/loss_{head}"] = total / pieces
        values[f"validation/bits_per_byte_{head}"] = total / math.log(2) / text_bytes
    return values

"""Masked-LM bits per byte of a model with a pack: how well it predicts text, without any label.

The sum of the masked pieces' negative log-likelihoods / ln 2 / their UTF-8 bytes, over one fixed draw of masks; a
pseudo-likelihood, so only roughly comparable across tokenizers, and no promise of transfer (METHOD.md).
"""

import math
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.batches import validation_batches
from megamini.data.blocks import Blocks
from megamini.data.masking import MaskingRule
from megamini.data.tokenizer import fingerprint, piece_bytes, special_ids
from megamini.device import device_of_sums
from megamini.downstream.recipe import BitsPerByteSection
from megamini.errors import UserError
from megamini.models.masked_lm import PrimaryModel


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: str,
    section: BitsPerByteSection,
    batch_size: int,
) -> tuple[float, int]:
    """(bits per byte, number of predicted pieces) of a masked-LM model on the validation split of a data directory.

    Raises UserError where the directory was made with another tokenizer than the one that the model speaks.
    """
    blocks = Blocks(directory, "validation")
    if fingerprint(tokenizer) != blocks.manifest["tokenizer_fingerprint"]:
        raise UserError(
            f"measures.bits_per_byte.data: {directory} was made with another tokenizer than the pack's; prepare the "
            "text with --tokenizer PACK"
        )
    rule = MaskingRule(
        share=section.mask_share,
        replace_with_mask=0.8,
        replace_with_random=0.1,
        mask_id=tokenizer.mask_token_id,
        special_ids=tuple(special_ids(tokenizer).tolist()),
        vocab_size=len(tokenizer),
        seed=0,
    )
    if len(blocks) == 0:
        raise UserError(f"{Path(directory)}: the validation split is empty; prepare with a larger --validation-share")
    primary = PrimaryModel(model).eval()
    bytes_of = torch.from_numpy(piece_bytes(tokenizer)).to(model.device)
    sums = torch.zeros(3, dtype=torch.float64, device=device_of_sums(model.device))  # nats, bytes, pieces
    with torch.inference_mode():
        for batch in validation_batches(blocks, rule, section.blocks, batch_size, rank=0, world_size=1):
            batch = batch.to(model.device)
            _, losses = primary(batch.input_ids, batch.positions, batch.labels, batch.attention_mask)
            counted = (losses[0] * batch.weights, bytes_of[batch.labels] * batch.weights, batch.weights)
            sums += torch.stack([values.sum() for values in counted]).to(sums.device)
    nats, text_bytes, pieces = sums.tolist()
    return nats / math.log(2) / text_bytes, int(pieces)

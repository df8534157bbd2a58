"""Masked-LM bits per byte of a model with a pack: how well it predicts text, without any label."""

import math
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megamini.data.batches import validation_batches
from megamini.data.blocks import Blocks
from megamini.data.masking import MaskingRule
from megamini.data.tokenizer import fingerprint, piece_bytes, special_ids
from megamini.downstream.metrics.measurement import Parts
from megamini.downstream.recipe import BitsPerByteSection
from megamini.errors import UserError
from megamini.machine import device_of_sums
from megamini.models.primary_model import PrimaryModel


def bits_per_byte_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: str,
    section: BitsPerByteSection,
    batch_size: int,
) -> tuple[Parts, int]:
    """Per block of a data directory's validation split (bits, bytes), whose ratio is the measure, of a masked-LM model;
    and the number of predicted pieces.

    Raises UserError where the directory was made with another tokenizer than the one that the model speaks.
    """
    blocks = Blocks(directory, "validation")
    if fingerprint(tokenizer) != blocks.manifest["tokenizer_fingerprint"]:
        raise UserError(
            f"measures.bits_per_byte.data: {directory} was made with another tokenizer than the pack's; prepare the "
            "text with --tokenizer PACK"
        )
    if tokenizer.mask_token_id is None:
        raise UserError("measures.bits_per_byte.data: the tokenizer has no mask token, which masked text needs")
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
    parts, pieces = [], 0
    with torch.inference_mode():
        for batch in validation_batches(blocks, rule, section.blocks, batch_size, rank=0, world_size=1):
            batch = batch.to(model.device)
            _, losses = primary(batch.input_ids, batch.positions, batch.labels, batch.attention_mask)
            counted = torch.stack([losses[0], bytes_of[batch.labels], torch.ones_like(batch.weights)]) * batch.weights
            counted = counted.to(device_of_sums(counted.device)).double()
            of_blocks = counted.view(3, len(batch.input_ids), -1).sum(2).T.tolist()
            parts += [(nats / math.log(2), text_bytes) for nats, text_bytes, own in of_blocks if own]
            pieces += int(sum(own for *_, own in of_blocks))
    return parts, pieces

"""Which positions of a block are predicted, and what the model sees there.

A mask is a pure function of (seed, epoch, block): no generator, no state, the same on any rank and worker. The
80/10/10 rule is BERT's (Devlin et al. 2019, section 3.1).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megamini.data.hashing import random_bits, random_unit

# Streams of random bits that must not meet: which positions, what happens there, which random token.
_CHOOSE, _ACTION, _TOKEN = 0, 1, 2


@dataclass(frozen=True)
class MaskingRule:
    """How blocks are masked: the same for a whole run, but for the share where that changes along the way.

    `masked_per_block` is M = round(share x (block length - 2)); `special_ids` are never chosen, and never appear as
    random tokens.
    """

    share: float
    replace_with_mask: float
    replace_with_random: float
    mask_id: int
    special_ids: tuple[int, ...]
    vocab_size: int
    seed: int

    def masked_per_block(self, block_length: int) -> int:
        """M, the number of predicted positions in every full block."""
        return masked_per_block(self.share, block_length)

    @property
    def counts_all(self) -> bool:
        """Whether all predicted positions of a full block count."""
        return True

    def predict(
        self, blocks: np.ndarray, numbers: np.ndarray, epochs: np.ndarray, lengths: np.ndarray | None = None
    ) -> "MaskedBlocks":
        """As `mask_blocks`."""
        return mask_blocks(blocks, numbers, epochs, self, lengths)


def masked_per_block(share: float, block_length: int) -> int:
    """round(share x (block length - 2)), at least 1: the beginning and the end of a block are never predicted."""
    return max(1, round(share * (block_length - 2)))


class MaskStage(NamedTuple):
    """A share of positions, and the number of the global batch that is the first one masked by the next stage's."""

    share: float
    end: int | None = None
    """None: never."""


@dataclass(frozen=True)
class MaskSchedule:
    """The share of predicted positions of a block, a pure function of the number of the global batch.

    stages: their ends rise, and only the last has none. So whoever reads a batch, and whenever, masks it alike, and its
    shapes change with the stage only.
    """

    stages: tuple[MaskStage, ...]
    block_length: int

    @property
    def last_share(self) -> float:
        """That of the end of the run, and of validation."""
        return self.stages[-1].share

    @property
    def most_masked(self) -> int:
        """M of the stage that predicts most."""
        return max(masked_per_block(stage.share, self.block_length) for stage in self.stages)

    def share(self, batch: int) -> float:
        """That of global batch number `batch`."""
        return next(stage.share for stage in self.stages if stage.end is None or batch < stage.end)

    def masked(self, batch: int) -> int:
        """M, the number of predicted positions in every block of global batch number `batch`."""
        return masked_per_block(self.share(batch), self.block_length)

    def along(self, batches: int) -> list[tuple[int, int]]:
        """How many of the first `batches` global batches have which M, stage by stage."""
        counts, start = [], 0
        for stage in self.stages:
            end = batches if stage.end is None else min(stage.end, batches)
            counts.append((end - start, masked_per_block(stage.share, self.block_length)))
            start = end
        return counts


@dataclass(frozen=True)
class MaskedBlocks:
    """Blocks as the model sees them. n blocks of length L, M predicted positions each.

    input_ids: int64 [n, L]. positions: int64 [n, M], ascending within the block. labels: int64 [n, M], the tokens
    there. weights: float32 [n, M], 1 where predicted, 0 for the filler of a block that has fewer.
    """

    input_ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def mask_blocks(
    blocks: np.ndarray, numbers: np.ndarray, epochs: np.ndarray, rule: MaskingRule, lengths: np.ndarray | None = None
) -> MaskedBlocks:
    """Mask `blocks` [n, L], which are the blocks `numbers` [n] seen in the `epochs` [n].

    `lengths` [n]: how many ids of each block are no padding; unset: all. A pad is known by that alone, since the pad
    token of some tokenizers also ends texts. Every full block predicts exactly M positions, or all that it can if these
    are fewer; a padded one (validation only) round(share x its maskable ones).
    """
    count = rule.masked_per_block(blocks.shape[1])
    keys = (rule.seed, epochs[:, None], numbers[:, None])
    lengths = np.full(len(blocks), blocks.shape[1]) if lengths is None else lengths

    maskable = ~np.isin(blocks, rule.special_ids) & (np.arange(blocks.shape[1]) < lengths[:, None])
    # The smallest random numbers win; the highest bit puts special positions behind all others.
    priority = random_bits(_CHOOSE, *keys, np.arange(blocks.shape[1])) >> np.uint64(1)
    priority[~maskable] |= np.uint64(1 << 63)
    positions = np.argsort(priority, axis=1)[:, :count]

    own = maskable.sum(axis=1)
    share_of_own = np.maximum(1, np.round(rule.share * own)).astype(np.int64)
    wanted = np.where(lengths < blocks.shape[1], share_of_own, count)
    predicted = np.arange(count) < np.minimum(own, wanted)[:, None]

    ascending = np.argsort(positions, axis=1)
    positions = np.take_along_axis(positions, ascending, axis=1)
    predicted = np.take_along_axis(predicted, ascending, axis=1)

    input_ids = blocks.astype(np.int64)
    labels = np.take_along_axis(input_ids, positions, axis=1)
    action = random_unit(_ACTION, *keys, positions)
    shown = np.where(action < rule.replace_with_mask, rule.mask_id, labels)
    random_token = (action >= rule.replace_with_mask) & (action < rule.replace_with_mask + rule.replace_with_random)
    shown = np.where(random_token, _random_tokens(rule, keys, positions), shown)
    np.put_along_axis(input_ids, positions, np.where(predicted, shown, labels), axis=1)
    return MaskedBlocks(input_ids, positions, labels, predicted.astype(np.float32))


def _random_tokens(rule: MaskingRule, keys: tuple, positions: np.ndarray) -> np.ndarray:
    """A token of the vocabulary without the special ones, for each position."""
    ordinary = np.delete(np.arange(rule.vocab_size), rule.special_ids)
    return ordinary[(random_unit(_TOKEN, *keys, positions) * len(ordinary)).astype(np.int64)]

"""What a decoder predicts of a block: every token of its text from those before it.

A block is what begins a text, its content, and what ends one (`data.blocks.Frame`). The end is where the block was cut
and none of the text's, so L - 2 positions predict the L - 2 tokens of the content behind them.
"""

from dataclasses import dataclass

import numpy as np

from megamini.data.masking import MaskedBlocks, MaskStage


@dataclass(frozen=True)
class NextTokenRule:
    """separator: id of the token behind each document. seed: of the order of the blocks, as for `MaskingRule`."""

    separator: int
    predict_separators: bool
    seed: int

    @property
    def counts_all(self) -> bool:
        """Whether all predicted positions of a full block count."""
        return self.predict_separators

    def predict(
        self, blocks: np.ndarray, numbers: np.ndarray, epochs: np.ndarray, lengths: np.ndarray | None = None
    ) -> MaskedBlocks:
        """The blocks [n, L] with L - 2 positions each, which count where their label is text of the block.

        `lengths` [n]: how many ids of each block are no padding; unset: all. A block is the same in every epoch.
        """
        ids = blocks.astype(np.int64)
        positions = np.broadcast_to(np.arange(blocks.shape[1] - 2), (len(blocks), blocks.shape[1] - 2))
        labels = np.ascontiguousarray(ids[:, 1:-1])
        counted = np.ones(labels.shape, bool)
        if lengths is not None:
            counted &= positions + 2 < lengths[:, None]
        if not self.predict_separators:
            counted &= labels != self.separator
        return MaskedBlocks(ids, positions, labels, counted.astype(np.float32))


@dataclass(frozen=True)
class NextTokenSchedule:
    """The number of predicted positions of a block, as `MaskSchedule` has it: the same in every batch."""

    block_length: int
    stages: tuple[MaskStage, ...] = ()

    @property
    def most_masked(self) -> int:
        return self.block_length - 2

    def share(self, batch: int) -> float:
        return 1.0

    def masked(self, batch: int) -> int:
        return self.block_length - 2

    def along(self, batches: int) -> list[tuple[int, int]]:
        return [(batches, self.block_length - 2)]

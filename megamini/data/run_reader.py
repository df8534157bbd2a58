"""Blocks read a run at a time, and kept until their turn: one read of a file system instead of hundreds."""

from collections import OrderedDict
from typing import Any

import numpy as np

from megamini.data.blocks import Blocks
from megamini.data.order import RunOrder


class RunReader:
    """`Blocks.read` with the runs read last kept in memory: at most one a stream, and one beside."""

    def __init__(self, blocks: Blocks, order: RunOrder) -> None:
        self._blocks, self._run, self._most = blocks, order.run, order.streams + 1
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Blocks `indices` [n] -> ids [n, L] of the stored type."""
        out = np.empty((len(indices), self._blocks.block_length), self._blocks.dtype)
        for row, index in enumerate(indices.tolist()):
            number, offset = divmod(index, self._run)
            out[row] = self._content(number)[offset]
        return out

    def _content(self, number: int) -> np.ndarray:
        if number in self._kept:
            self._kept.move_to_end(number)
        else:
            if len(self._kept) >= self._most:
                self._kept.popitem(last=False)
            start = number * self._run
            self._kept[number] = self._blocks.read_run(start, min(start + self._run, len(self._blocks)))
        return self._kept[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}

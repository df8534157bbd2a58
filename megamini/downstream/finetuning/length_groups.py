"""The order in which inputs are seen: by chance, in updates of about equal length, so that little is padded."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

# Updates whose inputs are sorted together: enough to pad little, few enough that they stay a random choice.
_UPDATES = 16


class LengthGroups(Sampler[int]):
    """Every input once an epoch; a pure function of seed and epoch.

    A random order is cut into pools of 16 updates. Each pool is sorted by length and cut into its updates, and all
    updates of the epoch are shuffled, but for one that is not full: it is the last.

    lengths: tokens of each input. batch: inputs of an update, over all ranks and accumulation steps.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The library calls it before each epoch, also of a run that goes on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(len(self._lengths)).tolist()
        updates = []
        for start in range(0, len(order), _UPDATES * self._batch):
            pool = sorted(order[start : start + _UPDATES * self._batch], key=lambda one: -self._lengths[one])
            updates += [pool[place : place + self._batch] for place in range(0, len(pool), self._batch)]
        last = [updates.pop()] if len(order) % self._batch else []
        for update in (*(updates[number] for number in generator.permutation(len(updates))), *last):
            yield from update

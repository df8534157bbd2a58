"""Several texts in one run: in every global batch each has its share, and runs through its own endless order.

Which blocks of which text make up global batch t is a pure function of t, in constant memory, as for one text. Text i
has read floor(t x B x share) blocks before batch t of B blocks; the text with the largest share takes the rest.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from megamini.data.batches import Batch, BatchPlan, MicroBatches, TrainingMicroBatches, joined
from megamini.errors import UserError


class Shares:
    """How a global batch is divided among texts."""

    def __init__(self, weights: Sequence[float], global_batch: int) -> None:
        """`weights`: positive, in any unit. Raises UserError for a batch too small to be divided so."""
        exact = [Fraction(weight).limit_denominator(10**6) for weight in weights]
        self._shares = [weight / sum(exact) for weight in exact]
        self._batch = global_batch
        self._largest = max(range(len(exact)), key=lambda text: self._shares[text])
        # Each of the others may have one block more than its share in a batch.
        if global_batch * self._shares[self._largest] < len(exact) - 1:
            raise UserError(
                f"training.global_batch: {global_batch} blocks are too few for {len(exact)} data directories with "
                "these data.weights; use a larger batch"
            )

    def read_before(self, batch: int) -> list[int]:
        """Blocks of each text that the batches before this one have read."""
        counts = [int(batch * self._batch * share) for share in self._shares]
        counts[self._largest] += batch * self._batch - sum(counts)
        return counts


class MixedMicroBatches(MicroBatches):
    """Micro-batches of several texts by their shares; inside a global batch the texts stand one behind the other."""

    def __init__(self, texts: Sequence[TrainingMicroBatches], shares: Shares, plan: BatchPlan, rank: int) -> None:
        self.texts, self.shares, self.plan, self.rank = texts, shares, plan, rank

    def __getitem__(self, number: int) -> Batch:
        update, step = divmod(number, self.plan.accumulation)
        low = (step * self.plan.world_size + self.rank) * self.plan.micro_batch
        before, after = self.shares.read_before(update), self.shares.read_before(update + 1)
        parts, first = [], 0
        for text, start, end in zip(self.texts, before, after, strict=True):
            own = range(max(low, first), min(low + self.plan.micro_batch, first + end - start))
            if own:
                parts.append(text.at(start + np.array(own, np.int64) - first, update))
            first += end - start
        return joined(parts)

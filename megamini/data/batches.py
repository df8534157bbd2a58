"""Micro-batches for one rank: which blocks, masked how, as tensors of constant shape.

Global batch t is the blocks t x B to (t + 1) x B - 1 of the endless order, whatever the number of ranks, workers and
accumulation steps: each of these only decides who computes what.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from megamini.data.blocks import Blocks
from megamini.data.masking import MaskingRule, MaskSchedule
from megamini.data.next_token import NextTokenRule
from megamini.data.order import RunOrder, blocks_at
from megamini.data.run_reader import RunReader
from megamini.errors import UserError
from megamini.library_internals import check_internals

check_internals(__name__)

Rule = MaskingRule | NextTokenRule

# Validation is masked by one fixed draw, which no training epoch shares.
_VALIDATION_EPOCH = 2**62


@dataclass(frozen=True)
class Batch:
    """b blocks of length L with M predicted positions each.

    input_ids: int64 [b, L]. positions: int64 [b * M], indices into the b * L flattened positions. labels: int64
    [b * M]. weights: float32 [b * M], 0 for what does not count; in training they sum to M in each block, so that
    blocks weigh alike; None when all count. attention_mask: int64 [b, L]; None when no block is padded, so that
    attention needs no mask.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`, copied without waiting where the host's memory is pinned. Apple GPUs would read
        memory that is given back already (github.com/pytorch/pytorch/issues/189690)."""
        at_once = device.type != "mps"
        return Batch(*(None if x is None else x.to(device, non_blocking=at_once) for x in self._tensors()))

    def pin_memory(self) -> "Batch":
        """Called by the loader's pinning thread."""
        return Batch(*(None if x is None else x.pin_memory() for x in self._tensors()))

    def _tensors(self) -> tuple[torch.Tensor | None, ...]:
        return (self.input_ids, self.positions, self.labels, self.weights, self.attention_mask)


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch of blocks is divided: `accumulation` micro-batches of `micro_batch` blocks on each rank."""

    global_batch: int
    micro_batch: int
    accumulation: int
    world_size: int


def plan_batches(global_batch: int, largest_micro_batch: int, world_size: int) -> BatchPlan:
    """Divide the global batch over the ranks with the fewest accumulation steps that fit.

    Raises `UserError` naming the nearest possible sizes when the ranks do not divide the global batch.
    """
    if global_batch % world_size:
        below = global_batch // world_size * world_size
        nearest = " or ".join(str(size) for size in (below, below + world_size) if size)
        ranks = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
        near_ranks = sorted(sorted(ranks, key=lambda n: abs(n - world_size))[:2])
        raise UserError(
            f"training.global_batch: {global_batch} blocks cannot be divided over {world_size} ranks; use a global "
            f"batch of {nearest}, or {' or '.join(map(str, near_ranks))} ranks"
        )
    per_rank = global_batch // world_size
    accumulation = next(
        steps for steps in range(1, per_rank + 1) if per_rank % steps == 0 and per_rank // steps <= largest_micro_batch
    )
    return BatchPlan(global_batch, per_rank // accumulation, accumulation, world_size)


class MicroBatches(Dataset):
    """Micro-batch k of one rank, for any k: number k % accumulation of global batch k // accumulation."""

    plan: BatchPlan


class TrainingMicroBatches(MicroBatches):
    """Those of one text. `schedule`: the share that is masked, by global batch; without one, always the rule's.
    `order`: of runs; without one, of single blocks."""

    def __init__(
        self,
        blocks: Blocks,
        rule: Rule,
        plan: BatchPlan,
        rank: int,
        schedule: MaskSchedule | None = None,
        order: RunOrder | None = None,
    ) -> None:
        self.blocks, self.rule, self.plan, self.rank, self.schedule = blocks, rule, plan, rank, schedule
        self._blocks_at = order.blocks_at if order else blocks_at
        self._read = RunReader(blocks, order).read if order else blocks.read

    def __getitem__(self, number: int) -> Batch:
        update, step = divmod(number, self.plan.accumulation)
        start = update * self.plan.global_batch + (step * self.plan.world_size + self.rank) * self.plan.micro_batch
        return self.at(np.arange(start, start + self.plan.micro_batch, dtype=np.int64), update)

    def at(self, positions: np.ndarray, number: int) -> Batch:
        """The blocks at any positions, int64, of the endless order, masked as those of global batch `number`."""
        epochs, numbers = self._blocks_at(positions, len(self.blocks), self.rule.seed)
        rule = self.rule if self.schedule is None else replace(self.rule, share=self.schedule.share(number))
        return _make_batch(self._read(numbers), numbers, epochs, rule)


class SideBySide(MicroBatches):
    """Micro-batches of several texts, whose blocks stand one text behind the other in each."""

    def __init__(self, texts: Sequence[MicroBatches]) -> None:
        self.texts, self.plan = texts, texts[0].plan

    def __getitem__(self, number: int) -> Batch:
        return joined([text[number] for text in self.texts])


def joined(batches: Sequence[Batch]) -> Batch:
    """One training batch of the blocks of all, which have one length."""
    offsets = np.cumsum([0, *(batch.input_ids.numel() for batch in batches)])
    return Batch(
        input_ids=torch.cat([batch.input_ids for batch in batches]),
        positions=torch.cat([b.positions + int(offset) for b, offset in zip(batches, offsets, strict=False)]),
        labels=torch.cat([batch.labels for batch in batches]),
        weights=None if batches[0].weights is None else torch.cat([batch.weights for batch in batches]),
    )


def training_loader(
    dataset: MicroBatches, first_update: int, last_update: int, workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    """The rank's micro-batches of the updates first_update..last_update-1, made ahead by `workers` processes."""
    steps = dataset.plan.accumulation
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_update * steps, last_update * steps),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_rank,
    )
    made = iter(loader)
    try:
        yield from made
    except UserError as error:
        # A worker's error arrives with its whole traceback as the message; what it says stands at the end.
        raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2]) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"data.workers: a process that makes batches died, perhaps for lack of memory; lower data.workers: {error}"
        ) from None
    finally:
        if workers:
            # The library ends them when nothing refers to `made`, as an exception on its way up does; and the end of
            # the process would wait for ever for workers that ignore its signal.
            made._shutdown_workers()


def _leave_signals_to_the_rank(worker: int) -> None:
    """Terminals, schedulers and DeepSpeed's launcher send a stop signal to every process of a job: were a worker to die
    of it, its rank could not reach the safe point. Only the rank itself ends its workers; they notice by themselves if
    it dies.
    """
    signal.set_wakeup_fd(-1)  # the rank's own, which hears of signals through it
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        # macOS does not say who has sent a signal. The library asks workers to end before it sends one.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    rank = multiprocessing.parent_process().pid
    threading.Thread(target=_end_when_told_by, args=(rank,), daemon=True).start()


def _end_when_told_by(rank: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != rank:
        pass
    os._exit(0)


def validation_batches(
    blocks: Blocks, rule: Rule, most_blocks: int, micro_batch: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """One rank's part of the validation blocks, masked by one fixed draw.

    All ranks get the same number of batches (ZeRO-3 needs identical calls); blocks that only fill up weigh 0.
    """
    count = min(most_blocks, len(blocks))
    chosen = np.arange(count) * len(blocks) // count  # evenly spread over the split
    for start in range(0, count, micro_batch * world_size):
        slots = start + rank * micro_batch + np.arange(micro_batch)
        numbers = chosen[np.minimum(slots, count - 1)]
        epochs = np.full(micro_batch, _VALIDATION_EPOCH)
        lengths = blocks.lengths(numbers)
        yield _make_batch(blocks.read(numbers), numbers, epochs, rule, lengths, counted=slots < count)


def _make_batch(
    blocks: np.ndarray,
    numbers: np.ndarray,
    epochs: np.ndarray,
    rule: Rule,
    lengths: np.ndarray | None = None,
    counted: np.ndarray | None = None,
) -> Batch:
    """The batch of `blocks` [b, L], without padding but for `lengths` [b]; with `counted` [b], a validation batch that
    weighs each position."""
    masked = rule.predict(blocks, numbers, epochs, lengths)
    offsets = np.arange(len(blocks))[:, None] * blocks.shape[1]
    weights = attention_mask = None
    if counted is not None:
        weights = torch.from_numpy((masked.weights * counted[:, None]).ravel())
        if (lengths < blocks.shape[1]).any():
            attention_mask = torch.from_numpy((np.arange(blocks.shape[1]) < lengths[:, None]).astype(np.int64))
    elif not rule.counts_all:
        each = masked.weights / np.maximum(masked.weights.mean(axis=1, keepdims=True), 1e-9)
        weights = torch.from_numpy(each.ravel())
    return Batch(
        input_ids=torch.from_numpy(masked.input_ids),
        positions=torch.from_numpy((masked.positions + offsets).ravel()),
        labels=torch.from_numpy(masked.labels.ravel()),
        weights=weights,
        attention_mask=attention_mask,
    )

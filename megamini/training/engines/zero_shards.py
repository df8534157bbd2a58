"""What a rank holds of the optimizer's fp32 copies under each ZeRO stage, as slices, and the way back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import nn

from megamini.library_internals import check_internals
from megamini.training.optimizers.zero_layout import FlatTensor
from megamini.training.state.shards import STEP, Shards, Slice
from megamini.training.state.shards_of_optimizer import load_whole, tensors_of

check_internals(__name__)


class _InMemory:
    on_disk = False

    def parts(self) -> Iterator[list[Slice]]:
        yield list(self._slices())


class ReplicatedState(_InMemory):
    """Stage 0: every rank holds all; each writes its even share."""

    def __init__(self, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, rank: int, ranks: int):
        self._parameters, self._optimizer, self._rank, self._ranks = parameters, optimizer, rank, ranks

    def _slices(self) -> Iterator[Slice]:
        total = sum(parameter.numel() for parameter in self._parameters.values())
        low, high = (total * one // self._ranks for one in (self._rank, self._rank + 1))
        at = 0
        for name, parameter in self._parameters.items():
            start, end = max(low - at, 0), min(high - at, parameter.numel())
            at += parameter.numel()
            if start < end:
                whole = tensors_of(parameter, self._optimizer.state.get(parameter, {}))
                part = {kind: value if kind == STEP else value[start:end] for kind, value in whole.items()}
                yield Slice(name, start, part)

    def load(self, shards: Shards) -> None:
        for name, parameter in self._parameters.items():
            load_whole(shards, name, parameter, self._optimizer)


class PartitionedOptimizerState(_InMemory):
    """Stages 1 and 2: flat tensors of whole groups."""

    def __init__(self, parameters: dict[str, nn.Parameter], zero, flat_tensors: list[FlatTensor]) -> None:
        self._parameters, self._zero, self._flat_tensors = parameters, zero, flat_tensors

    def _slices(self) -> Iterator[Slice]:
        for flat in self._flat_tensors:
            yield from _slices_of(flat, self._zero.optimizer)

    def load(self, shards: Shards) -> None:
        for flat in self._flat_tensors:
            _start_state(self._zero.optimizer, flat, shards)
        self._zero._hp_optimizer_states_linked = False
        if all(flat.tensor in self._zero.optimizer.state for flat in self._flat_tensors):
            self._zero._lazy_init_hp_params_optimizer_state()
        for flat in self._flat_tensors:
            _fill(flat, self._zero.optimizer, shards)
        for parameter in self._parameters.values():
            parameter.data.copy_(safe_get_full_fp32_param(parameter))  # all ranks


class PartitionedState:
    """Stage 3: flat tensors of sub-groups, which may be on disk (offload to NVMe).

    The calls of `deepspeed.utils` read a sub-group from there for every kind of every parameter; here it is read once.
    """

    def __init__(self, zero, flat_tensors: list[FlatTensor]) -> None:
        self._zero, self._flat_tensors = zero, flat_tensors
        self.on_disk = zero.swap_optimizer

    def parts(self) -> Iterator[list[Slice]]:
        optimizer = self._zero.optimizer
        if not self.on_disk:
            yield [one for flat in self._flat_tensors for one in _slices_of(flat, optimizer)]
            return
        for sub_group, flat in enumerate(self._flat_tensors):
            with in_memory(self._zero, sub_group):
                yield list(_slices_of(flat, optimizer))

    def load(self, shards: Shards) -> None:
        """*All ranks.* As DeepSpeed loads: all is partitioned, and the model's own values follow the fp32 copies."""
        self._zero._partition_all_parameters()
        if self.on_disk:
            self._zero.optimizer_swapper.purge_state()
        for sub_group, flat in enumerate(self._flat_tensors):
            with in_memory(self._zero, sub_group, changed=True):
                _start_state(self._zero.optimizer, flat, shards)
                _fill(flat, self._zero.optimizer, shards)
                self._zero._reassign_or_swap_out_partitioned_parameters(sub_group)
        self._zero._post_step(set())


@contextmanager
def in_memory(zero, group: int, changed: bool = False) -> Iterator[None]:
    """Stage 3: within, states of a sub-group are in memory. Those from disk are forgotten afterwards, or written back
    where they have been `changed`.
    """
    on_disk = zero._swappable_optimizer_subgroup(group)
    if on_disk:
        zero._optimizer_states_and_gradient_swap_in(group)
    try:
        yield
    finally:
        if on_disk and changed:
            zero._optimizer_states_and_gradient_swap_out(group)
        elif on_disk:
            zero._release_swap_buffers(group)


def _slices_of(flat: FlatTensor, optimizer: torch.optim.Optimizer) -> Iterator[Slice]:
    """What this rank holds of a flat tensor's parameters."""
    whole = tensors_of(flat.tensor, optimizer.state.get(flat.tensor, {}))
    for part in flat.parts:
        # Its own count for every slice: safetensors writes no memory twice.
        own = {
            kind: value.clone() if kind == STEP else value.narrow(0, part.at, part.numel)
            for kind, value in whole.items()
        }
        yield Slice(flat.members[part.member][0], part.start, own)


def _start_state(optimizer: torch.optim.Optimizer, flat: FlatTensor, shards: Shards) -> None:
    """The moments that a checkpoint has of a flat tensor's parameters, still empty, and its count of steps."""
    optimizer.state.pop(flat.tensor, None)
    # All of a group have the same; what this rank holds is in its own file.
    name, _ = flat.members[flat.parts[0].member if flat.parts else 0]
    if moments := shards.moments(name):
        state: dict[str, Any] = {kind: torch.zeros_like(flat.tensor) for kind in moments}
        if (step := shards.step(name)) is not None:
            counts_in_an_int = isinstance(optimizer, deepspeed.ops.adam.DeepSpeedCPUAdam)
            state[STEP] = int(step) if counts_in_an_int else step.reshape(()).to(flat.tensor.device)
        optimizer.state[flat.tensor] = state


def _fill(flat: FlatTensor, optimizer: torch.optim.Optimizer, shards: Shards) -> None:
    """Read this rank's parts of all kinds. What is padding stays as it is in weights, and zero in moments."""
    for kind, value in tensors_of(flat.tensor, optimizer.state.get(flat.tensor, {})).items():
        for part in flat.parts if kind != STEP else ():
            saved = shards.read(kind, flat.members[part.member][0], part.start, part.numel)
            if saved is not None:
                value.narrow(0, part.at, part.numel).copy_(saved)


def state_under_zero(
    stage: int, parameters: dict[str, nn.Parameter], optimizer, flat: list[FlatTensor], rank: int, ranks: int
) -> ReplicatedState | PartitionedOptimizerState | PartitionedState:
    """The state of a rank. parameters: all that train, by name. optimizer: that of DeepSpeed's engine, with its `flat`
    tensors."""
    if stage == 0:
        return ReplicatedState(parameters, optimizer, rank, ranks)
    return PartitionedState(optimizer, flat) if stage == 3 else PartitionedOptimizerState(parameters, optimizer, flat)

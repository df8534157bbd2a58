"""What a rank holds of the optimizer's fp32 copies under each ZeRO stage, as slices, and the way back.

The layout of DeepSpeed's flat partitions is read from the mapping that it attaches to every parameter (stages 1 and 2)
or from its table of positions (stage 3).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import nn

from megamini.training.shards import MOMENTS, STEP, Shards, Slice
from megamini.training.shards_of_optimizer import load_whole, tensors_of


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
    """Stages 1 and 2: each group's parameters lie end to end in one flat tensor, of which a rank has a part."""

    def __init__(self, parameters: dict[str, nn.Parameter], zero) -> None:
        self._parameters, self._zero = parameters, zero

    def _flats(self) -> list[torch.Tensor]:
        return self._zero.single_partition_of_fp32_groups

    def _slices(self) -> Iterator[Slice]:
        for name, parameter in self._parameters.items():
            mapping = parameter._hp_mapping
            if mapping is not None:
                flat = self._flats()[mapping.param_group_index]
                yield Slice(name, mapping.lp_fragment_address.start, self._tensors(mapping.hp_fragment_address, flat))

    def _tensors(self, address, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        whole = tensors_of(flat, self._zero.optimizer.state.get(flat, {}))
        return {
            kind: value if kind == STEP else value.narrow(0, address.start, address.numel)
            for kind, value in whole.items()
        }

    def load(self, shards: Shards) -> None:
        for flat, step in zip(self._flats(), self._steps(shards), strict=True):
            _start_state(self._zero.optimizer, flat, step)
        self._zero._hp_optimizer_states_linked = False
        if all(STEP in self._zero.optimizer.state.get(flat, {}) for flat in self._flats()):
            self._zero._lazy_init_hp_params_optimizer_state()
        for one in self._slices():
            for kind, view in one.tensors.items():
                if kind != STEP and (saved := shards.read(kind, one.name, one.start, view.numel())) is not None:
                    view.copy_(saved)
        for parameter in self._parameters.values():
            parameter.data.copy_(safe_get_full_fp32_param(parameter))  # all ranks

    def _steps(self, shards: Shards) -> list[torch.Tensor | None]:
        """The count of steps of each flat tensor: that of any of its parameters."""
        steps: list[torch.Tensor | None] = [None] * len(self._flats())
        for row, group in enumerate(self._zero.bit16_groups):
            members = {id(parameter) for parameter in group}
            name = next(name for name, parameter in self._parameters.items() if id(parameter) in members)
            steps[row] = shards.step(name)
        return steps


class PartitionedState:
    """Stage 3: a rank has an equal part of every parameter, padded with zeros at the end.

    These parts lie end to end in the flat tensors of sub-groups, which may be on disk (offload to NVMe). The calls of
    `deepspeed.utils` read a sub-group from there for every kind of every parameter; here it is read once.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], zero, rank: int) -> None:
        self._zero, self._rank = zero, rank
        self.on_disk = zero.swap_optimizer
        self._members: list[list[tuple[str, nn.Parameter]]] = [[] for _ in zero.fp32_partitioned_groups_flat]
        for name, parameter in parameters.items():
            self._members[self._place(parameter)[0]].append((name, parameter))

    def _place(self, parameter: nn.Parameter) -> tuple[int, int, int]:
        """Sub-group, and where in its flat tensor this rank's part starts, and how long it is."""
        return self._zero.grad_position[self._zero.get_param_id(parameter)]

    def _range(self, parameter: nn.Parameter) -> tuple[int, int]:
        """First element of this rank's part, and how many of it are no padding."""
        length = parameter.ds_tensor.ds_numel
        start = length * self._rank
        return start, max(0, min(length, parameter.ds_numel - start))

    def parts(self) -> Iterator[list[Slice]]:
        groups = range(len(self._members))
        if not self.on_disk:
            yield [one for group in groups for one in self._slices_of(group)]
            return
        for group in groups:
            with in_memory(self._zero, group):
                yield list(self._slices_of(group))

    def _slices_of(self, group: int) -> Iterator[Slice]:
        flat = self._zero.fp32_partitioned_groups_flat[group]
        whole = tensors_of(flat, self._zero.optimizer.state.get(flat, {}))
        for name, parameter in self._members[group]:
            start, numel = self._range(parameter)
            if numel:
                at = self._place(parameter)[1]
                parts = {kind: value.narrow(0, at, numel) for kind, value in whole.items() if kind != STEP}
                # Its own count for every slice: safetensors writes no memory twice.
                yield Slice(name, start, parts | {STEP: whole[STEP].clone()} if STEP in whole else parts)

    def load(self, shards: Shards) -> None:
        """*All ranks.* As DeepSpeed loads: all is partitioned, and the model's own values follow the fp32 copies."""
        self._zero._partition_all_parameters()
        if self.on_disk:
            self._zero.optimizer_swapper.purge_state()
        for group, members in enumerate(self._members):
            with in_memory(self._zero, group, changed=True):
                flat = self._zero.fp32_partitioned_groups_flat[group]
                _start_state(self._zero.optimizer, flat, shards.step(members[0][0]) if members else None)
                whole = tensors_of(flat, self._zero.optimizer.state.get(flat, {}))
                for name, parameter in members:
                    self._fill(shards, name, parameter, whole)
                self._zero._reassign_or_swap_out_partitioned_parameters(group)
        self._zero._post_step(set())

    def _fill(self, shards: Shards, name: str, parameter: nn.Parameter, whole: dict[str, torch.Tensor]) -> None:
        """Read this rank's part of a parameter into the flat tensors of its sub-group."""
        start, numel = self._range(parameter)
        _, at, length = self._place(parameter)
        for kind in whole.keys() - {STEP}:
            part = whole[kind].narrow(0, at, length)
            part[numel:].zero_()
            if numel and (saved := shards.read(kind, name, start, numel)) is not None:
                part[:numel].copy_(saved)


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


def _start_state(optimizer: torch.optim.Optimizer, flat: torch.Tensor, step: torch.Tensor | None) -> None:
    """Empty moments for a flat tensor that has been moved before, with its count of steps."""
    optimizer.state.pop(flat, None)
    if step is not None:
        counts_in_an_int = isinstance(optimizer, deepspeed.ops.adam.DeepSpeedCPUAdam)
        own = int(step) if counts_in_an_int else step.reshape(()).to(flat.device)
        optimizer.state[flat] = {STEP: own, **{kind: torch.zeros_like(flat) for kind in MOMENTS}}


def state_under_zero(
    stage: int, parameters: dict[str, nn.Parameter], optimizer, rank: int, ranks: int
) -> ReplicatedState | PartitionedOptimizerState | PartitionedState:
    """The state of a rank. parameters: all that train, by name. optimizer: that of DeepSpeed's engine."""
    if stage == 0:
        return ReplicatedState(parameters, optimizer, rank, ranks)
    if stage == 3:
        return PartitionedState(parameters, optimizer, rank)
    return PartitionedOptimizerState(parameters, optimizer)

"""What a rank holds of the optimizer's fp32 copies under each ZeRO stage, as slices, and the way back.

DeepSpeed's own names are used where it has a public call for it (`deepspeed.utils`); the layout of its flat partitions
is read from the mapping (stages 1 and 2) or the partition (stage 3) that it attaches to every parameter.
"""

from collections.abc import Iterator

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import nn

from megamini.training.shards import MOMENTS, STEP, WEIGHT, Shards, Slice
from megamini.training.shards_of_optimizer import as_step, load_whole, tensors_of


class ReplicatedState:
    """Stage 0: every rank holds all; each writes its even share."""

    def __init__(self, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, rank: int, ranks: int):
        self._parameters, self._optimizer, self._rank, self._ranks = parameters, optimizer, rank, ranks

    def slices(self) -> Iterator[Slice]:
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


class PartitionedOptimizerState:
    """Stages 1 and 2: each group's parameters lie end to end in one flat tensor, of which a rank has a part."""

    def __init__(self, parameters: dict[str, nn.Parameter], zero) -> None:
        self._parameters, self._zero = parameters, zero

    def _flats(self) -> list[torch.Tensor]:
        return self._zero.single_partition_of_fp32_groups

    def slices(self) -> Iterator[Slice]:
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
        _start_states(self._zero.optimizer, self._flats(), self._steps(shards))
        self._zero._hp_optimizer_states_linked = False
        if all(STEP in self._zero.optimizer.state.get(flat, {}) for flat in self._flats()):
            self._zero._lazy_init_hp_params_optimizer_state()
        for one in self.slices():
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
    """Stage 3: a rank has an equal part of every parameter, padded with zeros at the end."""

    def __init__(self, parameters: dict[str, nn.Parameter], zero, rank: int) -> None:
        self._parameters, self._zero, self._rank = parameters, zero, rank

    def _range(self, parameter: nn.Parameter) -> tuple[int, int]:
        """First element of this rank's part, and how many of it are no padding."""
        length = parameter.ds_tensor.ds_numel
        start = length * self._rank
        return start, max(0, min(length, parameter.ds_numel - start))

    def _flat_of(self, parameter: nn.Parameter) -> torch.Tensor:
        group, _, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
        return self._zero.fp32_partitioned_groups_flat[group]

    def slices(self) -> Iterator[Slice]:
        for name, parameter in self._parameters.items():
            start, numel = self._range(parameter)
            if numel:
                tensors = {WEIGHT: safe_get_local_fp32_param(parameter)[:numel]}
                state = self._zero.optimizer.state.get(self._flat_of(parameter), {})
                if STEP in state:
                    tensors |= {kind: safe_get_local_optimizer_state(parameter, kind)[:numel] for kind in MOMENTS}
                    tensors[STEP] = as_step(state[STEP])
                yield Slice(name, start, tensors)

    def load(self, shards: Shards) -> None:
        flats = self._zero.fp32_partitioned_groups_flat
        steps: dict[int, torch.Tensor | None] = {}
        for name, parameter in self._parameters.items():
            steps.setdefault(id(self._flat_of(parameter)), shards.step(name))
        _start_states(self._zero.optimizer, flats, [steps.get(id(flat)) for flat in flats])
        for name, parameter in self._parameters.items():
            safe_set_local_fp32_param(parameter, self._read(shards, WEIGHT, name, parameter))
            if steps[id(self._flat_of(parameter))] is not None:
                for kind in MOMENTS:
                    safe_set_local_optimizer_state(parameter, self._read(shards, kind, name, parameter), kind)
        for parameter in self._parameters.values():  # all ranks: the model's own values follow the fp32 copies
            value = safe_get_full_fp32_param(parameter)
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.copy_(value)

    def _read(self, shards: Shards, kind: str, name: str, parameter: nn.Parameter) -> torch.Tensor:
        """This rank's part of a parameter's `kind`, fp32 [length of a part]."""
        start, numel = self._range(parameter)
        values = torch.zeros(parameter.ds_tensor.ds_numel)
        if numel and (saved := shards.read(kind, name, start, numel)) is not None:
            values[:numel] = saved
        return values


def _start_states(
    optimizer: torch.optim.Optimizer, flats: list[torch.Tensor], steps: list[torch.Tensor | None]
) -> None:
    """Empty moments for every flat tensor that has been moved before, with its count of steps."""
    for flat, step in zip(flats, steps, strict=True):
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

"""Which flat tensors the optimizer moves on a rank under ZeRO 1 to 3, and where in them the parameters lie.

Read from the mapping that DeepSpeed attaches to every parameter (stages 1 and 2) or from its table of positions (3).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from megamini.library_internals import check_internals

check_internals(__name__)


class Part(NamedTuple):
    """What a rank holds of a parameter: elements [start, start + numel) of its flattened form.

    member: its number in the flat tensor's `members`. at: where they lie in the flat tensor.
    """

    member: int
    start: int
    numel: int
    at: int


@dataclass(frozen=True)
class FlatTensor:
    """fp32 copies of parameters of one group, end to end, of which each rank has a part."""

    tensor: torch.Tensor
    """This rank's part, under which the optimizer keeps its state; behind it, maybe padding."""
    group: int
    """Number of the optimizer's group."""
    members: tuple[tuple[str, nn.Parameter], ...]
    """Names and parameters of all ranks' parts together, in the same order on each."""
    parts: tuple[Part, ...]
    """What this rank holds of them."""


def flat_tensors(stage: int, parameters: dict[str, nn.Parameter], zero, rank: int) -> list[FlatTensor]:
    """Those of DeepSpeed's optimizer `zero`, in its own order; none at stage 0. parameters: all that train, by name."""
    if stage == 0:
        return []
    name_of = {id(parameter): name for name, parameter in parameters.items()}
    read = _of_sub_groups if stage == 3 else _of_groups
    return [
        FlatTensor(tensor, group, tuple((name_of[id(p)], p) for p in members), parts)
        for tensor, group, members, parts in read(zero, rank)
    ]


def _of_groups(zero, rank: int):
    """Stages 1 and 2: each group's parameters lie end to end, of which a rank has an equal part."""
    for group, tensor in enumerate(zero.single_partition_of_fp32_groups):
        members = list(zero.bit16_groups[group])
        parts = [
            Part(number, mapping.lp_fragment_address.start, address.numel, address.start)
            for number, parameter in enumerate(members)
            if (mapping := parameter._hp_mapping) is not None and (address := mapping.hp_fragment_address).numel
        ]
        yield tensor, group, members, tuple(parts)


def _of_sub_groups(zero, rank: int):
    """Stage 3: a rank has an equal part of every parameter, padded with zeros at the end."""
    for sub_group, tensor in enumerate(zero.fp32_partitioned_groups_flat):
        members, parts = zero.fp16_groups[sub_group], []
        for number, parameter in enumerate(members):
            _, at, length = zero.grad_position[zero.get_param_id(parameter)]
            start = length * rank
            if (numel := min(length, parameter.ds_numel - start)) > 0:
                parts.append(Part(number, start, numel, at))
        yield tensor, zero.sub_group_to_group_id[sub_group], members, tuple(parts)

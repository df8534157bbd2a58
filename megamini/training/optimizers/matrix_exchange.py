"""Muon under ZeRO: each matrix goes to one rank, which orthogonalises it, and its shares go back: two all-to-alls.

Each rank sends what it holds of a matrix to the rank that owns it for this purpose, and gets its part of the result. So
a rank sends and receives no more than its own share of all matrices, or one matrix, twice, which is little beside the
gradients; none repeats another's work; and nothing depends on how the matrices are cut.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import distributed

from megamini.costs.flops import newton_schulz_flops
from megamini.library_internals import check_internals
from megamini.training.optimizers.zero_layout import Part

check_internals(__name__)

MOST_ELEMENTS = 64 * 2**20  # that a rank sends or takes on at once, 256 MiB, unless a single matrix has more
_SLACK = 1.1  # over an even share of the work, for matrices that need not travel


class Matrix(NamedTuple):
    """`rows` x `columns` elements of a member's flattened form, from `start` on."""

    member: int
    start: int
    rows: int
    columns: int

    @property
    def numel(self) -> int:
        return self.rows * self.columns


class Fragment(NamedTuple):
    """Elements [start, start + numel) of a matrix's flattened form, at `at` in a flat tensor or a buffer."""

    matrix: int
    start: int
    numel: int
    at: int


def matrices_of(shapes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[Matrix]:
    """All matrices of the members, whose shapes are given, each with how many it holds one below the other."""
    return [
        Matrix(member, number * rows // count * columns, rows // count, columns)
        for member, ((rows, columns), count) in enumerate(zip(shapes, counts, strict=True))
        for number in range(count)
    ]


def owners_of(matrices: Sequence[Matrix], held: Sequence[dict[int, int]], ranks: int) -> list[int]:
    """Which rank orthogonalises each matrix. held: rank -> elements of it, for each matrix.

    The costliest first, to the rank that has more than half of it anyway, as ZeRO 1 and 2 cut; else, or where that has
    its even share of the work already, to the one with the least to do (Graham 1969).
    """
    cost = [newton_schulz_flops(one.rows, one.columns, 1) for one in matrices]
    even_share = sum(cost) / ranks * _SLACK
    loads, owners = [0] * ranks, [0] * len(matrices)
    for number in sorted(range(len(matrices)), key=lambda number: (-cost[number], number)):
        owner = max(held[number], key=held[number].get)
        is_there = 2 * held[number][owner] > matrices[number].numel
        if not is_there or loads[owner] + cost[number] > even_share:
            owner = min(range(ranks), key=loads.__getitem__)
        owners[number] = owner
        loads[owner] += cost[number]
    return owners


def rounds_of(
    matrices: Sequence[Matrix], held: Sequence[dict[int, int]], owners: Sequence[int], most_elements: int
) -> list[int]:
    """In which round each matrix is exchanged: the first in which no rank sends or takes on more elements than that,
    or nothing else."""
    rounds, loads = [0] * len(matrices), []
    for number, matrix in enumerate(matrices):
        wanted = {("sends", rank): numel for rank, numel in held[number].items()}
        wanted["owns", owners[number]] = matrix.numel
        chosen = next(
            (row for row, load in enumerate(loads)
             if all(not load[who] or load[who] + numel <= most_elements for who, numel in wanted.items())),
            len(loads),
        )  # fmt: skip
        if chosen == len(loads):
            loads.append(Counter())
        loads[chosen].update(wanted)
        rounds[number] = chosen
    return rounds


def fragments_of(parts: Sequence[Part], matrices: Sequence[Matrix]) -> Iterator[Fragment]:
    """Where the parts that a rank holds of members meet matrices, in the order of matrices."""
    held = {part.member: part for part in parts}  # a rank holds one stretch of a member at most
    for number, matrix in enumerate(matrices):
        if (part := held.get(matrix.member)) is None:
            continue
        low, high = max(part.start, matrix.start), min(part.start + part.numel, matrix.start + matrix.numel)
        if low < high:
            yield Fragment(number, low - matrix.start, high - low, part.at + low - part.start)


def holders_of(matrices: Sequence[Matrix], held: Sequence[Sequence[Fragment]]) -> list[dict[int, int]]:
    """For each matrix, rank -> how many elements of it that rank holds. held: the fragments of each rank."""
    holders: list[dict[int, int]] = [{} for _ in matrices]
    for rank, fragments in enumerate(held):
        for fragment in fragments:
            holders[fragment.matrix][rank] = fragment.numel
    return holders


@dataclass(frozen=True)
class _Round:
    """What this rank sends from its flat tensor, and gets of the matrices it owns, in the order of ranks."""

    sent: list[Fragment]
    send_sizes: list[int]
    got: dict[int, list[Fragment]]
    """By matrix, in the order of elements; `at` is in the buffer."""
    receive_sizes: list[int]


class MatrixExchange:
    """Orthogonalises the matrices of one flat tensor. *All ranks* build it, and call it, together."""

    def __init__(
        self,
        matrices: Sequence[Matrix],
        parts: Sequence[Sequence[Part]],
        rank: int,
        device: torch.device,
        most_elements: int = MOST_ELEMENTS,
    ) -> None:
        """`parts`: what each rank holds. device: where the matrices are orthogonalised."""
        self._matrices, self._device = matrices, device
        ranks = len(parts)
        held = [list(fragments_of(own, matrices)) for own in parts]
        holders = holders_of(matrices, held)
        owners = owners_of(matrices, holders, ranks)
        rounds = rounds_of(matrices, holders, owners, most_elements)
        self._rounds = [
            _round(
                [[one for one in held[rank] if owners[one.matrix] == to and rounds[one.matrix] == number]
                 for to in range(ranks)],
                [[one for one in held[of] if owners[one.matrix] == rank and rounds[one.matrix] == number]
                 for of in range(ranks)],
            )
            for number in range(max(rounds, default=-1) + 1)
        ]  # fmt: skip

    def __call__(self, flat: torch.Tensor, orthogonalise: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Put in the place of the matrices in `flat`, this rank's part, what `orthogonalise` makes of them whole."""
        for one in self._rounds:
            sizes = [fragment.numel for fragment in one.sent]
            own = [flat.narrow(0, fragment.at, fragment.numel) for fragment in one.sent]
            sent = _joined(own, flat).to(self._device)
            got = sent.new_empty(sum(one.receive_sizes))
            # All ranks.
            distributed.all_to_all_single(got, sent, one.receive_sizes, one.send_sizes)
            for number, fragments in one.got.items():
                fragments_got = [got.narrow(0, fragment.at, fragment.numel) for fragment in fragments]
                self._orthogonalise(self._matrices[number], fragments_got, orthogonalise)
            distributed.all_to_all_single(sent, got, one.send_sizes, one.receive_sizes)
            if own:
                torch._foreach_copy_(own, list(sent.to(flat.device).split(sizes)))

    @staticmethod
    def _orthogonalise(
        matrix: Matrix, fragments: list[torch.Tensor], orthogonalise: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Put the result in the place of the fragments that make up the matrix."""
        result = orthogonalise(_joined(fragments, fragments[0]).view(matrix.rows, matrix.columns)).flatten()
        torch._foreach_copy_(fragments, list(result.split([fragment.numel() for fragment in fragments])))


def _round(to_ranks: list[list[Fragment]], from_ranks: list[list[Fragment]]) -> _Round:
    got: dict[int, list[Fragment]] = {}
    at = 0
    for fragment in (fragment for fragments in from_ranks for fragment in fragments):
        got.setdefault(fragment.matrix, []).append(fragment._replace(at=at))
        at += fragment.numel
    return _Round(
        sent=[fragment for fragments in to_ranks for fragment in fragments],
        send_sizes=[sum(fragment.numel for fragment in fragments) for fragments in to_ranks],
        got={number: sorted(fragments, key=lambda fragment: fragment.start) for number, fragments in got.items()},
        receive_sizes=[sum(fragment.numel for fragment in fragments) for fragments in from_ranks],
    )


def _joined(tensors: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    if not tensors:
        return like.new_empty(0)
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

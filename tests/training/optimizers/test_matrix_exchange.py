"""Matrices in parts on many ranks: each is orthogonalised whole, by one rank, whatever the cut; nobody has too much."""

import threading

import pytest
import torch

from megamini.costs.flops import newton_schulz_flops
from megamini.training.optimizers import matrix_exchange
from megamini.training.optimizers.matrix_exchange import (
    MatrixExchange,
    fragments_of,
    holders_of,
    matrices_of,
    owners_of,
)
from megamini.training.optimizers.zero_layout import Part

SHAPES, COUNTS = [(6, 4), (4, 6), (9, 3), (5, 5), (1, 7)], [2, 1, 3, 1, 1]
# A layer of RoBERTa-large, 24 times, and two heads.
LARGE = [size for _ in range(24) for size in [(1024, 1024)] * 4 + [(4096, 1024), (1024, 4096)]] + [(1024, 1024)] * 2


def end_to_end(ranks: int, shapes: list[tuple[int, int]] = SHAPES) -> list[list[Part]]:
    """As ZeRO 1 and 2 cut a group: members end to end, in equal parts, with padding behind the last."""
    total = sum(rows * columns for rows, columns in shapes)
    size = -(-total // ranks)
    parts: list[list[Part]] = [[] for _ in range(ranks)]
    at = 0
    for member, (rows, columns) in enumerate(shapes):
        for rank in range(ranks):
            low, high = max(at, rank * size), min(at + rows * columns, (rank + 1) * size)
            if low < high:
                parts[rank].append(Part(member, low - at, high - low, low - rank * size))
        at += rows * columns
    return parts


def one_by_one(ranks: int, shapes: list[tuple[int, int]] = SHAPES) -> list[list[Part]]:
    """As ZeRO 3 cuts: each member by itself, in equal parts, with padding behind its last."""
    parts: list[list[Part]] = [[] for _ in range(ranks)]
    at = 0
    for member, (rows, columns) in enumerate(shapes):
        size = -(-rows * columns // ranks)
        for rank in range(ranks):
            if (numel := min(size, rows * columns - rank * size)) > 0:
                parts[rank].append(Part(member, rank * size, numel, at))
        at += size
    return parts


@pytest.mark.parametrize("cut", [end_to_end, one_by_one])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("most_elements", [1, 30, 10**6])
def test_every_matrix_is_seen_whole_by_one_rank(cut, ranks, most_elements, monkeypatch):
    parts, draw = cut(ranks), torch.Generator().manual_seed(0)
    members = [torch.randn(shape, generator=draw) for shape in SHAPES]
    length = max(part.at + part.numel for own in parts for part in own) + 3
    flats = [torch.full((length,), 5.0) for _ in range(ranks)]
    for own, flat in zip(parts, flats, strict=True):
        for part in own:
            flat[part.at : part.at + part.numel] = members[part.member].flatten()[part.start : part.start + part.numel]
    seen: list[torch.Tensor] = []

    def transposed_sum(matrix: torch.Tensor) -> torch.Tensor:
        """Of no use but to be wrong for anything less than the whole matrix."""
        seen.append(matrix)
        return matrix.flip(0) + matrix.sum()

    matrices = matrices_of(SHAPES, COUNTS)
    exchanges = [MatrixExchange(matrices, parts, rank, torch.device("cpu"), most_elements) for rank in range(ranks)]
    in_threads(monkeypatch, [lambda e=e, f=f: e(f, transposed_sum) for e, f in zip(exchanges, flats, strict=True)])

    assert len(seen) == sum(COUNTS)
    wanted = [torch.cat([m.flip(0) + m.sum() for m in w.chunk(c)]) for w, c in zip(members, COUNTS, strict=True)]
    for own, flat in zip(parts, flats, strict=True):
        covered = torch.zeros(length, dtype=torch.bool)
        for part in own:
            expected = wanted[part.member].flatten()[part.start : part.start + part.numel]
            torch.testing.assert_close(flat[part.at : part.at + part.numel], expected)
            covered[part.at : part.at + part.numel] = True
        assert (flat[~covered] == 5.0).all(), "padding stays"


def in_threads(monkeypatch, calls) -> None:
    """Ranks as threads, with a collective of their own in place of PyTorch's."""
    barrier, posted, rank_of = threading.Barrier(len(calls), timeout=60), {}, threading.local()
    errors: list[Exception] = []

    def all_to_all_single(output, given, output_sizes, given_sizes):
        posted[rank_of.number] = given.clone().split(given_sizes)
        barrier.wait()
        received = [posted[source][rank_of.number] for source in range(len(calls))]
        assert [len(one) for one in received] == output_sizes
        output.copy_(torch.cat(received))
        barrier.wait()

    def run(number, call) -> None:
        rank_of.number = number
        try:
            call()
        except Exception as error:
            errors.append(error)
            barrier.abort()

    monkeypatch.setattr(matrix_exchange.distributed, "all_to_all_single", all_to_all_single)
    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


@pytest.mark.parametrize("cut", [end_to_end, one_by_one])
@pytest.mark.parametrize("ranks", [2, 8, 16, 64, 512])
def test_nobody_has_too_much_to_do_or_to_hold(cut, ranks):
    """Work: a tenth over the even share and one matrix at most. Memory: in no round more than the bound, or a single
    fragment or matrix. Traffic: over all rounds no more than what a rank holds, or than its matrices."""
    most = 3 * 2**20
    matrices, parts = matrices_of(LARGE, [1] * len(LARGE)), cut(ranks, LARGE)
    holders = holders_of(matrices, [list(fragments_of(own, matrices)) for own in parts])
    cost = [newton_schulz_flops(one.rows, one.columns, 5) for one in matrices]
    loads = [0] * ranks
    for owner, one in zip(owners_of(matrices, holders, ranks), cost, strict=True):
        loads[owner] += one
    assert max(loads) <= 1.1 * sum(cost) / ranks + max(cost)
    assert ranks > len(matrices) / 2 or min(loads) > 0

    largest = max(one.numel for one in matrices)
    for rank in {0, ranks // 2, ranks - 1}:
        rounds = MatrixExchange(matrices, parts, rank, torch.device("cpu"), most)._rounds
        sent = [sum(one.send_sizes) for one in rounds]
        got = [sum(one.receive_sizes) for one in rounds]
        assert max(*sent, *got) <= max(most, largest)
        assert sum(sent) == sum(part.numel for part in parts[rank])
        even = sum(one.numel for one in matrices) / ranks
        assert len(rounds) <= 3 + 3 * max(even, largest) / most, "rounds are well filled"


def test_matrices_that_a_rank_holds_stay_there():
    """As ZeRO 1 and 2 cut them: what crosses a border between ranks travels, and little else."""
    matrices, parts = matrices_of(LARGE, [1] * len(LARGE)), end_to_end(8, LARGE)
    travelling = 0
    for rank in range(8):
        for one in MatrixExchange(matrices, parts, rank, torch.device("cpu"))._rounds:
            travelling += sum(one.send_sizes) - one.send_sizes[rank]
    assert travelling < 0.1 * sum(one.numel for one in matrices)


def test_the_formula_counts_the_products():
    """5 steps over 3 x 7: Gram matrix, its square, their product with the matrix; 2 FLOPs a multiply-add."""
    assert newton_schulz_flops(3, 7, 5) == newton_schulz_flops(7, 3, 5) == 5 * 2 * (3 * 3 * 7 + 3 * 3 * 3 + 3 * 3 * 7)

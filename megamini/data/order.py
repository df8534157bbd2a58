"""The order of blocks: a pseudo-random permutation of each epoch, evaluated anywhere in constant memory.

It is one of single blocks (`blocks_at`), or of runs of neighbouring blocks (`RunOrder`), which are read as one.

A Feistel network (Luby and Rackoff 1988) permutes the smallest square domain that holds all blocks; an image
outside the range is permuted again until it falls inside (cycle walking, Black and Rogaway 2002). So block t of an
epoch costs the same whether the corpus has a thousand blocks or a billion, and nothing is stored.
"""

from dataclasses import dataclass

import numpy as np

from megamini.data.hashing import random_bits

_ROUNDS = 8
# Keep the permutations of runs, and of the blocks of a run, apart from that of single blocks.
_OF_RUNS, _IN_A_RUN = 1, 2
# A run is as long as all streams together take up so many bytes, within these bounds in blocks.
_BYTES_OF_STREAMS, _SHORTEST, _LONGEST = 2**26, 8, 256


def permute(positions: np.ndarray, size: int, seed: int, epoch: int | np.ndarray) -> np.ndarray:
    """Blocks at `positions` of the order of `epoch`: a permutation of range(size) for each (seed, epoch).

    `positions` and the result are int64 in [0, size); `epoch` is one number or one per position.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    image = _feistel(positions.astype(np.uint64), half_bits, seed, epoch)
    while (outside := image >= size).any():
        inside_epoch = epoch if np.ndim(epoch) == 0 else epoch[outside]
        image[outside] = _feistel(image[outside], half_bits, seed, inside_epoch)
    return image.astype(np.int64)


def blocks_at(positions: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(epoch, block), each int64, at any positions (int64) of the endless order that runs epoch after epoch."""
    epoch, position = np.divmod(positions, size)
    return epoch, permute(position, size, seed, epoch)


@dataclass(frozen=True)
class RunOrder:
    """An order in which position p reads from stream p % `streams`, and each stream reads run after run.

    A run is `run` neighbouring blocks, in an order of its own. As many streams as a global batch has blocks: then the
    blocks of a batch are of as many places of the corpus, and a rank reads the runs of its own streams only. The runs
    of an epoch are permuted, as single blocks are elsewhere. What fills no run of every stream, and a corpus that is
    smaller than that, is shuffled whole.
    """

    streams: int
    run: int

    @classmethod
    def of(cls, global_batch: int, block_bytes: int) -> "RunOrder":
        """The order for global batches of so many blocks of so many bytes."""
        wanted = max(1, _BYTES_OF_STREAMS // (global_batch * block_bytes))
        return cls(global_batch, min(_LONGEST, max(_SHORTEST, 1 << (wanted.bit_length() - 1))))

    def blocks_at(self, positions: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(epoch, block), each int64, at any positions (int64) of the endless order that runs epoch after epoch."""
        epoch, position = np.divmod(positions, size)
        window = self.streams * self.run
        windows, runs = size // window, size // self.run
        if not windows:
            return epoch, permute(position, size, seed, epoch)
        group, place = np.divmod(position, window)
        step, stream = np.divmod(place, self.streams)
        number, offset = group * self.streams + stream, step
        # The rest: each of its places is a run and an offset in it, and the last run, which may be short, stays last.
        rest = position >= windows * window
        shuffled = permute(position[rest] - windows * window, size - windows * window, seed, epoch[rest])
        number[rest], offset[rest] = np.divmod(shuffled + windows * window, self.run)
        whole = number < runs
        number[whole] = permute(number[whole], runs, int(random_bits(seed, _OF_RUNS)), epoch[whole])
        ordered = ~rest
        key = random_bits(epoch[ordered], number[ordered])
        offset[ordered] = permute(offset[ordered], self.run, int(random_bits(seed, _IN_A_RUN)), key)
        return epoch, number * self.run + offset


def _feistel(values: np.ndarray, half_bits: int, seed: int, epoch: int | np.ndarray) -> np.ndarray:
    """A permutation of the integers of 2 x half_bits bits."""
    shift, low_mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & low_mask
    for round_number in range(_ROUNDS):
        left, right = right, left ^ (random_bits(seed, epoch, round_number, right) & low_mask)
    return (left << shift) | right

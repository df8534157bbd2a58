"""The order of blocks: a pseudo-random permutation of each epoch, evaluated anywhere in constant memory.

A Feistel network (Luby and Rackoff 1988) permutes the smallest square domain that holds all blocks; an image
outside the range is permuted again until it falls inside (cycle walking, Black and Rogaway 2002). So block t of an
epoch costs the same whether the corpus has a thousand blocks or a billion, and nothing is stored.
"""

import numpy as np

from megamini.data.hashing import random_bits

_ROUNDS = 8


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


def blocks_of_order(start: int, stop: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(epoch, block), each int64, at the positions start..stop-1 of the endless order that runs epoch after epoch."""
    return blocks_at(np.arange(start, stop, dtype=np.int64), size, seed)


def blocks_at(positions: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(epoch, block), each int64, at any positions of the endless order, int64."""
    epoch, position = np.divmod(positions, size)
    return epoch, permute(position, size, seed, epoch)


def _feistel(values: np.ndarray, half_bits: int, seed: int, epoch: int | np.ndarray) -> np.ndarray:
    """A permutation of the integers of 2 x half_bits bits."""
    shift, low_mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & low_mask
    for round_number in range(_ROUNDS):
        left, right = right, left ^ (random_bits(seed, epoch, round_number, right) & low_mask)
    return (left << shift) | right

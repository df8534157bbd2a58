"""A counter-based random number: a hash of integers, so that order and masks are pure functions of their indices.

The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"), applied once for every integer that is mixed in.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)


def random_bits(*keys: int | np.ndarray) -> np.ndarray:
    """64 random bits for each element of the broadcast `keys` (non-negative integers below 2^64), as uint64."""
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is wanted
        for key in keys:
            state = state * _MULTIPLY_1 + _GOLDEN + np.asarray(key, dtype=np.uint64)
            state = (state ^ (state >> np.uint64(30))) * _MULTIPLY_1
            state = (state ^ (state >> np.uint64(27))) * _MULTIPLY_2
            state = state ^ (state >> np.uint64(31))
    return state


def random_unit(*keys: int | np.ndarray) -> np.ndarray:
    """A float64 in [0, 1) for each element of the broadcast `keys`."""
    return (random_bits(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53

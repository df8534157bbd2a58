"""Differences between two systems with an interval that is paired over test examples, and over seeds where they share
them.

Hierarchical bootstrap: a round draws examples, the same for both systems, and seeds (fine-tuned models), with
replacement, and takes the metric of what it has drawn. Of k seeds it draws k - 1, so that the variance of their mean is
not underestimated (Rao and Wu 1988, rescaling bootstrap); with a few seeds, k of k would be too narrow by far.
"""

from dataclasses import dataclass

import numpy as np

_LEVEL = 0.95
_MOST_DRAWN = 2**21  # examples that are drawn at once, over all rounds: 16 MB an array


@dataclass(frozen=True)
class SystemScores:
    """numerators, denominators: float [seeds, examples]; a seed's metric is the ratio of their sums, 0 where nothing
    counts. Raises ValueError for other shapes."""

    numerators: np.ndarray
    denominators: np.ndarray

    def __post_init__(self) -> None:
        if self.numerators.ndim != 2 or not self.numerators.size or self.numerators.shape != self.denominators.shape:
            raise ValueError(f"not [seeds, examples]: {self.numerators.shape} and {self.denominators.shape}")

    @property
    def seeds(self) -> int:
        return len(self.numerators)

    def values(self, counts: np.ndarray) -> np.ndarray:
        """The metric of each seed [rounds, seeds] where an example counts as often as `counts` [rounds, examples]."""
        numerators, denominators = counts @ self.numerators.T, counts @ self.denominators.T
        return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators != 0)


def paired_difference(
    a: SystemScores, b: SystemScores, rounds: int = 10_000, seed: int = 0, same_seeds: bool = False
) -> tuple[float, float, float]:
    """(difference, low, high): the metric of `a` less that of `b`, each the mean over its seeds, and the 95% interval.

    same_seeds: seed j of both is one fine-tuned model, and both draw the same. A system of a single seed has no spread
    of seeds in the interval. Raises ValueError where the two have not the same examples, or not the same seeds.
    """
    examples = a.numerators.shape[1]
    if b.numerators.shape[1] != examples:
        raise ValueError(f"not of the same examples: {examples} and {b.numerators.shape[1]}")
    if same_seeds and a.seeds != b.seeds:
        raise ValueError(f"not of the same seeds: {a.seeds} and {b.seeds}")
    of_examples, of_a, of_b = np.random.default_rng(seed).spawn(3)
    step, differences = max(1, _MOST_DRAWN // examples), []
    for start in range(0, rounds, step):
        count = min(step, rounds - start)
        counts = _drawn(of_examples, count, examples, examples)
        seeds_a = _seed_weights(of_a, count, a.seeds)
        seeds_b = seeds_a if same_seeds else _seed_weights(of_b, count, b.seeds)
        differences.append((a.values(counts) * seeds_a).sum(1) - (b.values(counts) * seeds_b).sum(1))
    everything = np.ones((1, examples))
    low, high = np.quantile(np.concatenate(differences), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(a.values(everything).mean() - b.values(everything).mean()), float(low), float(high)


def _drawn(generator: np.random.Generator, rounds: int, draws: int, count: int) -> np.ndarray:
    """How often each of `count` comes up in so many draws [rounds, count]."""
    numbers = generator.integers(0, count, (rounds, draws)) + np.arange(rounds)[:, None] * count
    return np.bincount(numbers.ravel(), minlength=rounds * count).reshape(rounds, count).astype(float)


def _seed_weights(generator: np.random.Generator, rounds: int, seeds: int) -> np.ndarray:
    """Weights of the seeds that each round draws [rounds, seeds]; their sum is 1."""
    draws = max(1, seeds - 1)
    return _drawn(generator, rounds, draws, seeds) / draws

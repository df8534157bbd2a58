"""How much a series needs for a share of standard's best, as measured and in resamplings of what was measured.

Fine-tuned models, adaptation seeds and, where asked for, languages are drawn again; test examples are not.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from megamini.commands.reporting.quality import COSTS
from megamini.downstream.results import Result

ROUNDS = 2000


@dataclass(frozen=True)
class Measured:
    """A series in one language on one task, whose metric rises. values: [seeds, models, packs], by adaptation seed,
    fine-tuned model and pack. updates: [packs], the first untrained. costs: of COSTS -> [packs]."""

    values: np.ndarray
    updates: np.ndarray
    costs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Curves:
    """values, and each of costs: [rounds, packs]; updates: [packs]."""

    values: np.ndarray
    updates: np.ndarray
    costs: Mapping[str, np.ndarray]


def measured_on(task: str, results: Sequence[Result]) -> dict[tuple[str, str], Measured]:
    """Series and language -> what was measured of their packs, where an untrained one is among several. Costs are those
    of the first adaptation seed. Raises ValueError where a pack lacks a seed or a model that others have."""
    found: dict[tuple[str, str], list[Result]] = {}
    for one in results:
        if one.task == task and one.learned is not None:
            found.setdefault((one.learned.series, one.language), []).append(one)
    arrays = {key: _arrays(key, own) for key, own in found.items()}
    return {key: own for key, own in arrays.items() if len(own.updates) > 1 and own.updates[0] == 0}


def _arrays(key: tuple[str, str], results: Sequence[Result]) -> Measured:
    seeds, models = (sorted({one.seed[part] for one in results}) for part in (0, 1))
    updates = sorted({one.learned.updates for one in results})
    values = np.full((len(seeds), len(models), len(updates)), np.nan)
    costs = {cost: np.zeros(len(updates)) for cost in COSTS}
    for one in results:
        seed, model, pack = seeds.index(one.seed[0]), models.index(one.seed[1]), updates.index(one.learned.updates)
        values[seed, model, pack] = one.values[one.metric]
        if seed == 0:
            for cost in COSTS:
                costs[cost][pack] = getattr(one.learned, cost)
    if np.isnan(values).any():
        raise ValueError(f"{key}: not every pack was measured with every fine-tuned model")
    return Measured(values, np.array(updates), costs)


class Draws:
    """What each round draws, as weights that sum to 1: all rounds together, the same whoever asks first.

    rounds: None for the one round in which everything has its turn, as measured.
    """

    def __init__(self, rounds: int | None, seed: int = 0) -> None:
        self._rounds, self._seed = rounds, seed

    def of(self, what: str, count: int) -> np.ndarray:
        """Weights [rounds, count] of as many draws out of `count`. Equal `what` gives equal draws."""
        if self._rounds is None:
            return np.full((1, count), 1 / count)
        generator = np.random.default_rng([self._seed, zlib.crc32(what.encode())])
        drawn = generator.integers(0, count, (self._rounds, count))
        return (drawn[:, :, None] == np.arange(count)).mean(1)

    def curves(self, key: tuple[str, str], measured: Measured) -> Curves:
        """Mean of a series in a language over what is drawn: fine-tuned models alike for all series, which share them,
        adaptation seeds for each."""
        seeds, models, _ = measured.values.shape
        weights = self.of(f"seeds of {key}", seeds), self.of("models", models)
        values = np.einsum("ra,rm,amp->rp", *weights, measured.values)
        # How sums are rounded depends on the processor, and whether a target is reached must not.
        return Curves(np.round(values, 12), measured.updates, {c: own[None] for c, own in measured.costs.items()})


def mean_of(curves: Sequence[Curves], weights: np.ndarray) -> Curves | None:
    """Mean over languages, by weights [rounds, languages], at the updates that all have; None for fewer than two."""
    updates = reduce(np.intersect1d, [one.updates for one in curves])
    if len(updates) < 2 or updates[0]:
        return None
    at = [np.searchsorted(one.updates, updates) for one in curves]

    def mean(rows: list[np.ndarray]) -> np.ndarray:
        return np.round(sum(weights[:, [n]] * row[:, at[n]] for n, row in enumerate(rows)), 12)

    costs = {cost: mean([one.costs[cost] for one in curves]) for cost in COSTS}
    return Curves(mean([one.values for one in curves]), updates, costs)


def target_of(standard: Curves, share: float) -> np.ndarray:
    """Untrained + share x (best - untrained) [rounds]; NaN where standard adaptation gains nothing."""
    start, best = standard.values[:, 0], standard.values.max(1)
    return np.where(best > start, start + share * (best - start), np.nan)


def need(own: Curves, cost: str, target: np.ndarray, from_first_pack: bool) -> np.ndarray:
    """Cost at which the curve first reaches target [rounds], by straight lines between packs; infinite where it does
    not. from_first_pack: what lies between the untrained pack and the first that was learned counts as the latter."""
    rows, there = np.arange(len(own.values)), own.values >= target[:, None]
    first = there.argmax(1)
    before = np.maximum(first - 1, 0)
    costs = np.broadcast_to(own.costs[cost], own.values.shape)
    low, high = own.values[rows, before], own.values[rows, first]
    way = np.where(high > low, (target - low) / np.where(high > low, high - low, 1), 1.0)
    if from_first_pack:
        way = np.where(first == 1, 1.0, way)
    reached = costs[rows, before] + (costs[rows, first] - costs[rows, before]) * way
    return np.where(there.any(1), reached, np.inf)


def speed_up(own: Curves, standard: Curves, cost: str, share: float) -> np.ndarray:
    """Standard's need over its own [rounds]: 0 where it does not reach the target, infinite where its untrained pack
    does, NaN where there is no target. Doubts of the first stretch count against it: its own need is not read off
    there, standard's is."""
    target = target_of(standard, share)
    theirs = need(standard, cost, target, from_first_pack=False)
    ours = need(own, cost, target, from_first_pack=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isnan(target), np.nan, np.where(ours == 0, np.inf, theirs / ours))


def in_first_stretch(own: Curves, target: np.ndarray) -> np.ndarray:
    """Whether the target is first reached between the untrained pack and the next [rounds]."""
    there = own.values >= target[:, None]
    return there.any(1) & (there.argmax(1) == 1)

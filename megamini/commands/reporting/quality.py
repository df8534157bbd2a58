"""Quality against compute: how much a series of packs must learn to reach what standard adaptation reaches."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megamini.commands.reporting.evaluation import EvaluationRecord
from megamini.downstream.results import Mean, means

SHARES = (0.90, 0.95, 0.99)
COSTS = ("flops", "seconds")
_LOWER_IS_BETTER = {"bits_per_byte"}


@dataclass(frozen=True)
class Curve:
    """A series of packs of one language on one task: (cost of learning, mean of the metric over seeds), by updates.

    method: standard or mini.
    """

    task: str
    language: str
    metric: str
    series: str
    method: str
    points: tuple[Mean, ...]

    def against(self, cost: str) -> list[tuple[float, float]]:
        """(`flops` or `seconds`, metric) along the way."""
        return [(getattr(point.learned, cost), point.mean) for point in self.points]

    @property
    def sign(self) -> int:
        """1 where more is better."""
        return -1 if self.metric in _LOWER_IS_BETTER else 1

    @property
    def best(self) -> float:
        """The metric at its best along the way."""
        return self.sign * max(self.sign * point.mean for point in self.points)


@dataclass(frozen=True)
class Reached:
    """What a series needs to reach `share` of standard's best; None where it does not. speed_up: standard's cost over
    its own, by cost."""

    curve: Curve
    share: float
    target: float
    costs: dict[str, float | None]
    speed_up: dict[str, float | None]


def curves(records: Sequence[EvaluationRecord]) -> list[Curve]:
    """All series with at least two packs; those of one name in several evaluations are told apart by the run."""
    holders = Counter(
        series for record in records for series in {r.learned.series for r in record.results if r.learned}
    )
    found: dict[tuple[str, str, str], list[Mean]] = {}
    for record in records:
        for mean in means(record.results):
            if mean.learned is not None:
                series = mean.learned.series
                if holders[series] > 1:
                    series = f"{record.directory.name}: {series}"
                found.setdefault((mean.task, mean.language, series), []).append(mean)
    several = []
    for (task, language, series), unordered in found.items():
        points = sorted(unordered, key=lambda point: point.learned.updates)
        if points[0].learned.updates < points[-1].learned.updates:
            method = points[0].learned.method or ""
            several.append(Curve(task, language, points[0].metric, series, method, tuple(points)))
    return several


def cost_to_reach(points: Sequence[tuple[float, float]], target: float, sign: int = 1) -> float | None:
    """The cost at which the curve first reaches `target`, by straight lines between its points; None where it never
    does."""
    before: tuple[float, float] | None = None
    for cost, value in points:
        if sign * (value - target) >= 0:
            if before is None:
                return cost
            return before[0] + (cost - before[0]) * (target - before[1]) / (value - before[1])
        before = (cost, value)
    return None


def reached(of: Sequence[Curve], reference: str = "standard") -> list[Reached]:
    """For each task and language with a standard series: every series at every share of standard's best gain.

    `reference`: name of that series, where there are several.

    The gain is over the untrained pack (0 updates): target = untrained + share x (standard's best - untrained). Where
    no pack is untrained the target is a share of standard's best itself; bits per byte then have no target.
    """
    rows = []
    for standard in _references(of, reference):
        start = standard.points[0] if standard.points[0].learned.updates == 0 else None
        if start is None and standard.sign < 0:
            continue
        origin = start.mean if start else 0.0
        if standard.sign * (standard.best - origin) <= 0:
            continue
        for curve in of:
            if (curve.task, curve.language) == (standard.task, standard.language):
                rows += [_reached(curve, standard, share, origin) for share in SHARES]
    return rows


def _references(of: Sequence[Curve], reference: str) -> list[Curve]:
    """The standard series of each task and language; of several, such as that of a small model, the one called
    `reference`."""
    found: dict[tuple[str, str], list[Curve]] = {}
    for curve in of:
        if curve.method == "standard":
            found.setdefault((curve.task, curve.language), []).append(curve)
    named = ([curve for curve in several if curve.series == reference] or several for several in found.values())
    return [several[0] for several in named if len(several) == 1]


def _reached(curve: Curve, standard: Curve, share: float, origin: float) -> Reached:
    target = origin + share * (standard.best - origin)
    own, theirs = (
        {cost: cost_to_reach(one.against(cost), target, one.sign) for cost in COSTS} for one in (curve, standard)
    )
    return Reached(curve, share, target, own, {cost: _ratio(theirs[cost], own[cost]) for cost in COSTS})


def _ratio(theirs: float | None, own: float | None) -> float | None:
    """Infinite where a series is there before it has learned anything."""
    if own is None or not theirs:
        return None
    return theirs / own if own else math.inf


def average_speed_up(rows: Sequence[Reached], cost: str) -> float | None:
    """Geometric mean over languages; None where one of them does not reach its target."""
    values = [row.speed_up[cost] for row in rows]
    return statistics.geometric_mean(values) if values and all(values) else None

"""How many times less than standard adaptation each series needs, with how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megamini.commands.reporting.quality import COSTS, SHARES
from megamini.downstream.results import Result
from tools.study.grid import Study
from tools.study.pooling import MEAN
from tools.study.resampling import (
    ROUNDS,
    Curves,
    Draws,
    in_first_stretch,
    mean_of,
    measured_on,
    need,
    speed_up,
    target_of,
)

AVERAGE = "average speed-up"
# Language, series, share of standard's best, cost.
Key = tuple[str, str, float, str]
# By language: as measured, and in all rounds.
_Both = tuple[dict[str, Curves], dict[str, Curves]]


@dataclass(frozen=True)
class Speed:
    """value: times less than standard; 0 where the target is not reached, infinite where the untrained pack is there,
    NaN where standard gains nothing. at_least: it is reached before the first pack that was learned, which counts.
    low, high: 95% interval over the resamplings with a target. reaching: share of these that reach it. without: share
    of all that have no target."""

    value: float
    at_least: bool
    low: float
    high: float
    reaching: float
    without: float

    @property
    def always_at_once(self) -> bool:
        """Whether the untrained pack is there, in every resampling."""
        return math.isinf(self.low) and not self.without

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "no target"
        without = f"; no target in {self.without:.0%}" if self.without >= 0.005 else ""
        if not self.value:
            return f"- ({in_percent(self.reaching)}{without})"
        shown = "at once" if math.isinf(self.value) else f"{'≥ ' * self.at_least}{_short(self.value)}"
        if self.always_at_once:
            return f"**{shown}**"
        always = f"; {in_percent(self.reaching)}" if self.reaching < 1 else ""
        return f"**{shown}** [{_short(self.low)}, {_short(self.high)}{always}{without}]"


@dataclass(frozen=True)
class Speeds:
    """Against one standard series, on one task. found: of each series that is plugged into the same primary model.
    cost: what each needs itself, where it gets there. elsewhere: series -> share of resamplings, languages drawn too,
    in which the mean of languages reaches 95%."""

    task: str
    reference: str
    found: dict[Key, Speed]
    cost: dict[Key, float]
    elsewhere: dict[str, float]

    @property
    def overall(self) -> str:
        """The mean of languages, or the only language where there is one."""
        return MEAN if MEAN in self.languages(self.reference) else self.languages(self.reference)[0]

    def languages(self, series: str) -> list[str]:
        """Those of a series, and behind them what is over several languages, where there are several."""
        return list(dict.fromkeys(key[0] for key in self.found if key[1] == series))

    def always_at_once(self, series: str) -> bool:
        """In every language, at every share, in every resampling."""
        return all(speed.always_at_once for key, speed in self.found.items() if key[1] == series)

    def cell(self, series: str, language: str, share: float, cost: str) -> str:
        """One of them as the page shows it; empty where it was not measured."""
        speed = self.found.get((language, series, share, cost))
        return "" if speed is None else str(speed)


def references(study: Study) -> dict[str, str]:
    """Start to the series of standard adaptation from there."""
    return {
        series.start: name
        for name, series in study.series.items()
        if series.method == "standard" and series.after is None and series.source == series.primary
    }


def speeds_on(task: str, results: Sequence[Result], study: Study, rounds: int = ROUNDS) -> list[Speeds]:
    """Against every standard series that was measured on the task, in its languages."""
    measured = measured_on(task, results)
    as_measured, drawn = (
        {key: draws.curves(key, own) for key, own in measured.items()} for draws in (Draws(None), Draws(rounds))
    )
    found = []
    for reference in references(study).values():
        languages = [language for series, language in measured if series == reference]
        same = [name for name, one in study.series.items() if one.primary == study.series[reference].primary]
        if languages:
            found.append(_Comparison(reference, languages, as_measured, drawn, rounds).speeds(task, same))
    return found


class _Comparison:
    """Of all series with one standard series, in the languages of the latter."""

    def __init__(
        self,
        reference: str,
        languages: list[str],
        as_measured: dict[tuple[str, str], Curves],
        drawn: dict[tuple[str, str], Curves],
        rounds: int,
    ) -> None:
        self._reference, self._languages = reference, languages
        self._as_measured, self._drawn = as_measured, drawn
        self._equal, self._others = (Draws(n).of("languages", len(languages)) for n in (None, rounds))
        self._standard = self._of(reference)

    def speeds(self, task: str, names: Sequence[str]) -> Speeds:
        """Of the series called so that were measured in any of the languages."""
        found: dict[Key, Speed] = {}
        costs: dict[Key, float] = {}
        elsewhere: dict[str, float] = {}
        for series in names:
            own = self._of(series)
            for share in SHARES:
                for cost in COSTS:
                    for language, speed in self._at(own, cost, share).items():
                        found[language, series, share, cost] = speed
                    for language, curve in own[0].items():
                        target = target_of(self._standard[0][language], share)
                        costs[language, series, share, cost] = float(need(curve, cost, target, True)[0])
            if MEAN in own[0]:
                pair = (self._with_mean(self._drawn, one, self._others)[MEAN] for one in (series, self._reference))
                elsewhere[series] = _reaching(speed_up(*pair, "flops", 0.95))
        return Speeds(task, self._reference, found, costs, elsewhere)

    def _of(self, series: str) -> _Both:
        return tuple(self._with_mean(of, series, self._equal) for of in (self._as_measured, self._drawn))

    def _with_mean(self, of: dict[tuple[str, str], Curves], series: str, weights: np.ndarray) -> dict[str, Curves]:
        """Curves of a series by language, with their mean where it has all of them."""
        own = {one: of[series, one] for one in self._languages if (series, one) in of}
        mean = mean_of(list(own.values()), weights) if len(own) == len(self._languages) > 1 else None
        return own | ({MEAN: mean} if mean else {})

    def _at(self, own: _Both, cost: str, share: float) -> dict[str, Speed]:
        """By language, with the mean's and behind it the average over languages where there is one."""
        ratios, early = {}, {}
        for language, curve in own[0].items():
            point, drawn = self._standard[0][language], self._standard[1][language]
            ratios[language] = speed_up(curve, point, cost, share), speed_up(own[1][language], drawn, cost, share)
            early[language] = bool(in_first_stretch(curve, target_of(point, share))[0])
        speeds = {language: _speed(*ratios[language], early[language]) for language in ratios}
        if MEAN in ratios:
            average = (_geometric([ratios[one][side] for one in self._languages]) for side in (0, 1))
            speeds[AVERAGE] = _speed(*average, any(early[one] for one in self._languages))
        return speeds


def _geometric(ratios: Sequence[np.ndarray]) -> np.ndarray:
    """Geometric mean over languages with a target [rounds]; NaN where none has one."""
    of = np.stack(np.broadcast_arrays(*ratios))
    has = ~np.isnan(of)
    # One that is not reached makes it 0, whatever the others are.
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.exp(np.where(has, np.log(of), 0).sum(0) / has.sum(0))
    mean = np.where((of == 0).any(0), 0, mean)
    return np.where(has.any(0), mean, np.nan)


def _speed(as_measured: np.ndarray, drawn: np.ndarray, at_least: bool) -> Speed:
    having = np.sort(drawn[~np.isnan(drawn)])
    without = 1 - len(having) / len(drawn)
    if not len(having):
        return Speed(float(as_measured[0]), at_least, math.nan, math.nan, 0.0, without)
    low, high = having[int(0.025 * len(having))], having[min(len(having) - 1, int(0.975 * len(having)))]
    return Speed(float(as_measured[0]), at_least, float(low), float(high), _reaching(drawn), without)


def _reaching(drawn: np.ndarray) -> float:
    having = drawn[~np.isnan(drawn)]
    return float((having > 0).mean()) if len(having) else 0.0


def _short(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.3g}"


def in_percent(value: float) -> str:
    """A share of resamplings, rounded down: only all are 100%."""
    return f"{int(100 * value)}%"

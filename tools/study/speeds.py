"""How many times less than standard adaptation each series needs, with how sure that is."""

import math
from dataclasses import dataclass

from tools.reporting.evaluation import EvaluationRecord
from tools.reporting.quality import curves, reached
from tools.study.grid import Study
from tools.study.pooling import Key, bootstrap, replace_results, speed_ups, with_mean


@dataclass(frozen=True)
class Speeds:
    """Against one standard series, on one task. found: speed-up, None where the target is not reached. sure: low and
    high end of its interval and the share of resamplings that reach it."""

    task: str
    reference: str
    found: dict[Key, float | None]
    sure: dict[Key, tuple[float, float, float]]

    def languages(self, series: str) -> list[str]:
        """Those of a series, and behind them what is over several languages, where there are several."""
        languages = list(dict.fromkeys(key[1] for key in self.found if key[2] == series))
        return languages[:1] if len(languages) == 2 else languages  # one language and its average

    def cell(self, series: str, language: str, share: float, cost: str) -> str:
        """One of them as the page shows it."""
        key = (self.task, language, series, share, cost)
        value, (low, high, reaching) = self.found.get(key), self.sure.get(key, (0.0, 0.0, 0.0))
        if value is None:
            return f"- ({reaching:.0%})"
        if math.isinf(value):
            return "**at once**"
        not_always = f"; {reaching:.0%}" if reaching < 1 else ""
        return f"**{value:.2f}** [{low:.2f}, {'∞' if math.isinf(high) else f'{high:.2f}'}{not_always}]"


def references(study: Study) -> dict[str, str]:
    """Start to the series of standard adaptation from there."""
    return {
        series.start: name
        for name, series in study.series.items()
        if series.method == "standard" and series.after is None and series.source == series.primary
    }


def speeds_on(task: str, record: EvaluationRecord, study: Study) -> list[Speeds]:
    """Against every standard series that was measured on the task, in its languages."""
    results = [result for result in record.results if result.task == task and result.learned is not None]
    found = []
    for reference in references(study).values():
        languages = {result.language for result in results if result.learned.series == reference}
        own = replace_results(record, [result for result in results if result.language in languages])
        if languages:
            speeds = speed_ups(reached(with_mean(curves([own]), reference), reference))
            found.append(Speeds(task, reference, speeds, bootstrap(own, task, reference)))
    return found

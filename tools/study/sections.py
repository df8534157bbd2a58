"""The sections of DETAILS.md, each computed from ledgers alone."""

import math
from collections.abc import Sequence

from megamini.commands.reporting.evaluation import EvaluationRecord, interval
from megamini.commands.reporting.quality import COSTS, SHARES, Curve, curves
from megamini.commands.reporting.tables import table
from megamini.downstream.evaluation.reference_lines import IN_LANGUAGE, SURFACE, WORD_BY_WORD
from megamini.downstream.results import means, spread
from tools.study.grid import Study
from tools.study.ledger import Ledger
from tools.study.pooling import best_of, with_mean
from tools.study.speeds import Speeds, in_percent, references

HEADLINE = "libreoffice"
AMORTISED_OVER = (1, 5, 14)


def made_with(ledgers: Sequence[Ledger]) -> str:
    """Hardware, versions, and what all of it has cost."""
    cells, others = ([one for one in ledgers if one.is_cell is kind] for kind in (True, False))
    hours = sum(one.run.ledger["seconds"] for one in cells) / 3600
    pretraining = sum(one.run.ledger["seconds"] * one.run.ledger["ranks"] for one in others) / 3600
    machines = sorted({one.made_with["hardware"] for one in ledgers})
    versions = sorted({", ".join(f"{k} {v}" for k, v in one.made_with["versions"].items()) for one in ledgers})
    commits = sorted({one.made_with["commit"] for one in ledgers})
    return "\n".join(
        [
            f"* Ledgers: {len(cells)} cells, {len(others)} primary models",
            f"* Hardware: {'; '.join(machines)}",
            f"* Versions: {'; '.join(versions)}; commits {', '.join(commits)}",
            f"* CPU hours: {pretraining:.1f} of pretraining, {hours:.1f} of adaptation (one core a run)",
        ]
    )


def series_table(study: Study, record: EvaluationRecord) -> str:
    """What the series are, and how many runs each has."""
    runs: dict[str, set[tuple[str, int]]] = {}
    for result in record.results:
        if result.learned is not None:
            runs.setdefault(result.learned.series, set()).add((result.language, result.seed[0]))
    rows = [[name, series.about, str(len(runs[name]))] for name, series in study.series.items() if name in runs]
    return table(["series", "learned over; start", "runs"], rows)


def primaries(ledgers: Sequence[Ledger]) -> str:
    """What pretraining has cost and reached, in the source language."""
    rows = []
    for one in (one for one in ledgers if not one.is_cell):
        last = one.run.validations[-1]
        heads = {
            key.removeprefix("validation/loss_"): value
            for key, value in last.items()
            if key.startswith("validation/loss_")
        }
        unigram = heads.pop("unigram")
        losses = ", ".join(f"{head.replace('_', ' ')} {value:.3f}" for head, value in sorted(heads.items()))
        tasks = "; ".join(f"{mean.task} {spread(mean)}" for mean in means(one.results) if mean.pack is None)
        ledger = one.run.ledger
        rows.append(
            [one.name, f"{ledger['updates']:,}", f"{ledger['tokens']:,}", f"{ledger['flops']:.3g}",
             f"{ledger['seconds']:,.0f}", f"{losses} (unigram {unigram:.3f})", tasks]
        )  # fmt: skip
    return table(
        ["primary", "updates", "tokens", "FLOPs", "seconds", "validation loss (nats)", "source-language tasks"], rows
    )


def transfer(record: EvaluationRecord, study: Study, task: str) -> str:
    """Is transfer real: standard adaptation beside the lines that need no language model."""
    lines = {(m.language, m.pack): m.mean for m in means(record.results) if m.task == task and m.learned is None}
    of, rows, verdicts = curves([record]), [], []
    for start, name in references(study).items():
        own = [curve for curve in of if curve.task == task and curve.series == name]
        beats = {SURFACE: 0, WORD_BY_WORD: 0}
        for curve in own:
            first, last = curve.points[0], curve.points[-1]
            low, high = interval(last)
            cells = {line: lines.get((curve.language, line)) for line in (*beats, IN_LANGUAGE)}
            above = {line: cells[line] is not None and low > cells[line] for line in beats}
            beats = {line: count + above[line] for line, count in beats.items()}
            rows.append(
                [name, curve.language, *("" if value is None else _percent(value) for value in cells.values()),
                 _percent(first.mean), f"**{spread(last)}** [{_percent(low)}, {_percent(high)}]",
                 *("yes" if yes else "no" for yes in above.values())]
            )  # fmt: skip
        if own:
            listed = f", and word by word in {beats[WORD_BY_WORD]}" if study.series[name].word_list else ""
            verdicts.append(f"{beats[SURFACE]} of {len(own)} languages from `{start}`{listed}")
    titles = ["series", "language", "surface", "word by word", "in-language", "untrained", "at the end"]
    verdict = "Standard adaptation beats the surface line by more than its interval in " + "; ".join(verdicts) + "."
    return f"{table([*titles, 'above surface', 'above word by word'], rows)}\n\n{verdict}"


def summary(record: EvaluationRecord, speeds: Sequence[Speeds], study: Study) -> str:
    """A table a task of every series that has all languages of the reference, or of standard adaptation from its own
    start, in the mean of these."""
    of, parts = curves([record]), []
    for own in (own for own in speeds if own.reference == study.reference):
        parts += [f"**{own.task}**", "", _summary_of(own, of, record, speeds, study), ""]
    return "\n".join(parts).rstrip()


def _summary_of(
    own: Speeds, of: Sequence[Curve], record: EvaluationRecord, speeds: Sequence[Speeds], study: Study
) -> str:
    against = {one.reference: one for one in speeds if one.task == own.task}
    learned = [one for one in record.results if one.task == own.task and one.learned]
    in_languages_of = {reference: with_mean(of, reference) for reference in against}
    rows = []
    for name, series in study.series.items():
        start = references(study).get(series.start)
        held_against = [one for one in (own.reference, start) if one in against]
        means_of = [best_of(in_languages_of[one], own.task, against[one].overall, name) for one in held_against]
        if not any(means_of):
            continue
        mean = next(one for one in means_of if one)
        languages = {one.language for one in learned if one.learned.series == name}
        seeds = {one.seed[0] for one in learned if one.learned.series == name}
        compared = name != own.reference
        itself = ""
        if start in against and name != start:
            itself = against[start].cell(name, against[start].overall, 0.95, "flops")
        reaching = own.elsewhere.get(name) if compared else None
        rows.append(
            [name, series.about, " ".join(sorted(languages)), str(len(seeds)),
             *(_percent(mean.points[end].mean) for end in (0, -1)),
             own.cell(name, own.overall, 0.95, "flops") if compared else "",
             in_percent(reaching) if reaching is not None else "",
             "same" if start == own.reference and itself else itself]
        )  # fmt: skip
    titles = ["series", "learned over; start", "languages", "seeds", "untrained"]
    titles += ["at the end", f"times less FLOPs than `{own.reference}`", "resamplings that reach it"]
    titles += ["times less FLOPs than standard with the same start"]
    return table(titles, rows)


def headline(speeds: Sequence[Speeds], study: Study, task: str = HEADLINE) -> str:
    """Speed-up at 90, 95 and 99% of standard's best on a task, with intervals: against each standard series, the others
    of its start, and folded up those of other starts that are plugged into the same primary model."""
    parts = []
    for own in (own for own in speeds if own.task == task):
        reference = study.series[own.reference]
        names = [name for name in study.series if name != own.reference and own.languages(name)]
        same = [name for name in names if study.series[name].start == reference.start]
        others = [name for name in names if name not in same]
        if not names:
            continue
        parts += [f"### Against `{own.reference}`", ""]
        parts += [_speed_ups(own, same), ""] if same else []
        if others:
            folded = f"<details><summary>series from other starts, against {own.reference}</summary>"
            parts += [folded, "", *_without_what_is_there(own, others), "", "</details>", ""]
    return "\n".join(parts).rstrip()


def _without_what_is_there(own: Speeds, series: Sequence[str]) -> list[str]:
    """The table, and in a sentence the series that are at once at the target in all languages and resamplings."""
    there = [name for name in series if own.always_at_once(name)]
    left = [name for name in series if name not in there]
    sentence = f"At once in every language and every resampling: {', '.join(there)}." if there else ""
    return [*([_speed_ups(own, left)] if left else []), *([sentence] if sentence else [])]


def _speed_ups(own: Speeds, series: Sequence[str]) -> str:
    columns = [(share, cost) for cost in COSTS for share in SHARES]
    rows = [
        [name, language, *(own.cell(name, language, share, cost) for share, cost in columns)]
        for name in series
        for language in own.languages(name)
    ]
    return table(["series", "language", *(f"{share:.0%}, {cost}" for share, cost in columns)], rows)


def at_the_end(record: EvaluationRecord, study: Study) -> str:
    """Every measure of every series when its training has ended."""
    of = curves([record])
    tasks = list(dict.fromkeys(curve.task for curve in of))
    rows = []
    for series in study.series:
        for language in dict.fromkeys(curve.language for curve in of if curve.series == series):
            cells = [best_of(of, task, language, series) for task in tasks]
            shown = [spread(curve.points[-1]) if curve else "" for curve in cells]
            learned = next(curve for curve in cells if curve).points[-1].learned
            rows.append(
                [series, language, f"{learned.tokens:,}", f"{learned.flops:.3g}", f"{learned.seconds:,.0f}", *shown]
            )
    return table(["series", "language", "tokens", "FLOPs", "seconds", *tasks], rows)


def amortised(ledgers: Sequence[Ledger], speeds: Sequence[Speeds], study: Study) -> str:
    """Step 1b and the extra pretraining spread over languages: FLOPs a language until their mean is at 95% of the
    reference's best, and from how many languages on that is less in all than with the reference."""
    primary = {one.name: one.run.ledger["flops"] for one in ledgers if not one.is_cell}
    own = next((one for one in speeds if (one.task, one.reference) == (HEADLINE, study.reference)), None)
    if own is None:
        return f"`{study.reference}` was not measured."
    standard = own.cost[own.overall, study.reference, 0.95, "flops"]
    rows = []
    for name in study.series:
        each = own.cost.get((own.overall, name, 0.95, "flops"), math.inf)
        if math.isinf(each):
            continue
        extra = spent_once(name, study, primary)
        if extra is None:
            rows.append([name, f"{each:.3g}", "-", *"-" * len(AMORTISED_OVER), ""])
            continue
        pays = f"{max(1, math.ceil(extra / (standard - each)))}" if name != study.reference and each < standard else ""
        rows.append([name, f"{each:.3g}", f"{extra:.3g}", *(f"{each + extra / n:.3g}" for n in AMORTISED_OVER), pays])
    shares = [f"with its share, {count} languages" for count in AMORTISED_OVER]
    pays_from = f"languages from which it is less than `{study.reference}`"
    return table(["series", "FLOPs a language", "once", *shares, pays_from], rows)


def spent_once(name: str, study: Study, flops: dict[str, float]) -> float | None:
    """The most that any stage of a series needs beforehand, beyond plain pretraining; None where that is not known.

    flops: of each pretraining run, by primary model.
    """
    extras: list[float | None] = []
    stage: str | None = name
    while stage is not None:
        series = study.series[stage]
        extras.append(_extra(series.source, series.primary, flops))
        stage = series.after
    return None if None in extras else max(extras)


def _extra(source: str, primary: str, flops: dict[str, float]) -> float | None:
    """What is spent once: the exits' share of MiniJoint's pretraining over plain pretraining, or MiniPost's bridge."""
    if source == primary or primary not in flops:
        return 0.0
    if source.startswith(f"{primary}-exit-"):
        return flops[primary] - flops["plain"] if "plain" in flops else None
    return flops.get(source.partition("-exit-")[0])


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"

"""The sections of RESULTS.md, each computed from ledgers alone."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from megamini.downstream.results import means, spread
from tools.reporting.evaluation import EvaluationRecord, interval
from tools.reporting.plots import new_plot, save_plot
from tools.reporting.quality import COSTS, SHARES, Curve, curves, reached
from tools.reporting.tables import table
from tools.study.grid import Study
from tools.study.ledger import Ledger
from tools.study.pooling import MEAN, best_of, with_mean
from tools.study.speeds import Speeds, references

HEADLINE, TAGS = "libreoffice", "ud_pos"
AMORTISED_OVER = (1, 5, 14)


def made_with(ledgers: Sequence[Ledger]) -> str:
    """Hardware, versions, and what all of it has cost."""
    kinds = Counter(one.kind for one in ledgers)
    hours = sum(one.run.ledger["seconds"] for one in ledgers if one.kind == "cell") / 3600
    pretraining = (
        sum(one.run.ledger["seconds"] * one.run.ledger["ranks"] for one in ledgers if one.kind == "primary") / 3600
    )
    machines = sorted({one.made_with["hardware"] for one in ledgers})
    versions = sorted({", ".join(f"{k} {v}" for k, v in one.made_with["versions"].items()) for one in ledgers})
    commits = sorted({one.made_with["commit"] for one in ledgers})
    return "\n".join(
        [
            f"* Ledgers: {kinds['cell']} cells, {kinds['primary']} primary models",
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
    return table(["series", "what is learned over, and from where it starts", "runs"], rows)


def primaries(ledgers: Sequence[Ledger]) -> str:
    """What pretraining has cost and reached, in the source language."""
    rows = []
    for one in (one for one in ledgers if one.kind == "primary"):
        last = one.run.validations[-1]
        heads = {
            key.removeprefix("validation/loss_"): value
            for key, value in last.items()
            if key.startswith("validation/loss_")
        }
        unigram = heads.pop("unigram")
        losses = ", ".join(f"{head.replace('_', ' ')} {value:.3f}" for head, value in sorted(heads.items()))
        name = one.facts["primary"]
        measured = [result for other in ledgers if other.facts.get("primary") == name for result in other.results]
        tasks = "; ".join(f"{mean.task} {spread(mean)}" for mean in means(measured) if mean.pack is None)
        ledger = one.run.ledger
        rows.append(
            [name, f"{ledger['updates']:,}", f"{ledger['tokens']:,}", f"{ledger['flops']:.3g}",
             f"{ledger['seconds']:,.0f}", f"{losses} (unigram {unigram:.3f})", tasks]
        )  # fmt: skip
    return table(
        ["primary", "updates", "tokens", "FLOPs", "seconds", "validation loss (nats)", "source-language tasks"], rows
    )


def transfer(record: EvaluationRecord, study: Study) -> str:
    """Is transfer real: standard adaptation beside the lines that need no language model."""
    summary = [mean for mean in means(record.results) if mean.task == HEADLINE]
    lines = {(mean.language, mean.pack): mean.mean for mean in summary if mean.learned is None}
    of, rows, verdicts = curves([record]), [], []
    for start, series in references(study).items():
        own = [curve for curve in of if curve.task == HEADLINE and curve.series == series]
        beats = 0
        for curve in own:
            first, last = curve.points[0], curve.points[-1]
            low, high = interval(last)
            surface = lines[curve.language, "surface"]
            beats += low > surface
            rows.append(
                [series, curve.language, _percent(surface),
                 _percent(lines[glossed]) if (glossed := (curve.language, "word-by-word")) in lines else "",
                 _percent(first.mean),
                 f"**{spread(last)}** [{_percent(low)}, {_percent(high)}]",
                 _percent(lines[curve.language, "in-language"]), "yes" if low > surface else "no"]
            )  # fmt: skip
        if own:
            verdicts.append(f"{beats} of {len(own)} languages from `{start}`")
    titles = [
        "series",
        "language",
        "surface",
        "word by word",
        "untrained",
        "at the end",
        "in-language",
        "above surface",
    ]
    verdict = "Standard adaptation beats the surface line by more than its interval in " + ", ".join(verdicts) + "."
    return f"{table(titles, rows)}\n\n{verdict}"


def summary(record: EvaluationRecord, speeds: Sequence[Speeds], study: Study) -> str:
    """Every series that has all languages of the reference, in the mean of these: accuracy untrained and at the end,
    and how many times less FLOPs it needs for 95% of the best gain of the reference, and of standard adaptation from
    its own start."""
    of = curves([record])
    standard_from = references(study)
    titles, columns = ["series", "what is learned over, and from where it starts"], []
    for own in (own for own in speeds if own.reference == study.reference):
        languages = {curve.language for curve in of if (curve.task, curve.series) == (own.task, own.reference)}
        titles += [f"{own.task}, {len(languages)} languages: untrained, at the end"]
        titles += [f"times less than `{own.reference}`", "times less than standard from its own start"]
        columns.append((own, [curve for curve in with_mean(of, own.reference) if curve.language == MEAN]))
    rows = []
    for name, series in study.series.items():
        cells = []
        for own, means_of in columns:
            mean = best_of(means_of, own.task, MEAN, name)
            ends = [_percent(mean.points[end].mean) for end in (0, -1)] if mean else []
            cells.append(", ".join(ends))
            for reference in (own.reference, standard_from.get(series.start)):
                against = [one for one in speeds if (one.task, one.reference) == (own.task, reference)]
                shown = mean and against and name != reference and study.series[reference].primary == series.primary
                cells.append(against[0].cell(name, MEAN, 0.95, "flops") if shown else "")
        if any(cells):
            rows.append([name, series.about, *cells])
    return table(titles, rows)


def headline(speeds: Sequence[Speeds], study: Study, task: str = HEADLINE) -> str:
    """Speed-up at 90, 95 and 99% of standard's best on a task, with intervals: against each standard series, the others
    of its start, and folded up those of other starts that are plugged into the same primary model."""
    parts = []
    for own in (own for own in speeds if own.task == task):
        reference = study.series[own.reference]
        names = [name for name in study.series if name != own.reference and own.languages(name)]
        same = [name for name in names if study.series[name].start == reference.start]
        others = [name for name in names if study.series[name].primary == reference.primary and name not in same]
        parts += [f"### Against `{own.reference}`", ""]
        parts += [_speed_ups(own, same), ""] if same else []
        if others:
            folded = f"<details><summary>series from other starts, against {own.reference}</summary>"
            parts += [folded, "", _speed_ups(own, others), "", "</details>", ""]
    return "\n".join(parts).rstrip()


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


def amortised(ledgers: Sequence[Ledger], record: EvaluationRecord, study: Study) -> str:
    """Step 1b and the extra pretraining spread over languages: FLOPs a language to 95% of the reference's best."""
    primary = {one.facts["primary"]: one.run.ledger["flops"] for one in ledgers if one.kind == "primary"}
    needs: dict[str, list[float]] = {}
    of = curves([record])
    for row in reached(of, study.reference):
        same = study.series[row.curve.series].primary == study.series[study.reference].primary
        if same and row.curve.task == HEADLINE and row.share == 0.95 and row.costs["flops"] is not None:
            needs.setdefault(row.curve.series, []).append(row.costs["flops"])
    rows = []
    for name in study.series:
        if name not in needs:
            continue
        extra = spent_once(name, study, primary)
        mean = sum(needs[name]) / len(needs[name])
        cells = [f"{mean + extra / count:.3g}" for count in AMORTISED_OVER] if extra is not None else ["-"] * 3
        rows.append([name, str(len(needs[name])), f"{mean:.3g}", "-" if extra is None else f"{extra:.3g}", *cells])
    shares = [f"with its share, {count} languages" for count in AMORTISED_OVER]
    return table(["series", "languages that reach it", "FLOPs a language", "once", *shares], rows)


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


def plots(record: EvaluationRecord, study: Study, out: Path) -> str:
    """A plot for each task: all languages side by side, quality against FLOPs."""
    of, images = curves([record]), []
    for task in dict.fromkeys(curve.task for curve in of):
        for language in dict.fromkeys(curve.language for curve in of if curve.task == task):
            here = [curve for curve in of if (curve.task, curve.language) == (task, language)]
            images.append(_plot(task, language, here, record, out))
    return "\n".join(f"![{path.stem}]({path.relative_to(out.parent)})" for path in images)


def _plot(task: str, language: str, of: list[Curve], record: EvaluationRecord, out: Path) -> Path:
    figure, axes = new_plot("FLOPs of adaptation", f"{task} ({of[0].metric})", f"{task} in {language}")
    for curve in of:
        axes.plot(*zip(*curve.against("flops"), strict=True), marker="o", markersize=3, label=curve.series)
    for mean in means(record.results):
        if (mean.task, mean.language) == (task, language) and mean.pack in ("surface", "word-by-word", "in-language"):
            axes.axhline(
                mean.mean,
                color="grey",
                linestyle={"surface": ":", "word-by-word": "-."}.get(mean.pack, "--"),
                label=mean.pack,
            )
    axes.legend(fontsize=7)
    return save_plot(figure, out / f"{task}-{language}.png")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"

"""Languages learned: what each run has cost, and what the primary model makes of its embeddings."""

from pathlib import Path

from megamini.commands.reporting.plots import new_plot, plot_name, save_plot
from megamini.commands.reporting.runs import RunRecord
from megamini.commands.reporting.tables import plain_table
from megamini.commands.reporting.vocabularies import fertility_table, source_table
from megamini.markup import plain


def adaptation_section(runs: list[RunRecord], out: Path) -> str:
    """Markdown on all adaptation runs together, one table and plot for each language."""
    languages = sorted({language for run in runs for language in languages_of(run)})
    return "\n\n".join(_language(one, [run for run in runs if one in languages_of(run)], out) for one in languages)


def languages_of(run: RunRecord) -> list[str]:
    """The languages that a run has learned."""
    names = [name.removeprefix("validation/loss_") for name in run.validations[-1]]
    return [name.removesuffix("_unigram") for name in names if name.endswith("_unigram") and "/" not in name]


def primary_bits(run: RunRecord, language: str, line: dict[str, float]) -> float | None:
    """Bits per byte of the primary model with the embeddings plugged in; None where the run did not know it."""
    learned_over_primary = run.recipe["adaptation"]["method"] == "standard"
    suffix = "" if learned_over_primary else "_primary"
    return line.get(f"validation/bits_per_byte_{language}{suffix}")


def _language(language: str, runs: list[RunRecord], out: Path) -> str:
    rows = []
    for run in runs:
        last, section = run.validations[-1], run.recipe["adaptation"]
        bits = primary_bits(run, language, last)
        # Side by side, each language has its share of the pass.
        share = len(languages_of(run))
        rows.append(
            [
                run.name,
                section["method"],
                section["initialise"],
                f"{run.ledger['tokens'] / share:,.0f}",
                f"{run.ledger['flops'] / share:.3g}",
                f"{run.ledger['seconds'] / share:,.0f}",
                f"{last[f'validation/bits_per_byte_{language}']:.3f}",
                "-" if bits is None else f"{bits:.3f}",
            ]
        )
    titles = ["run", "method", "start", "tokens", "FLOPs", "seconds", "bits per byte", "of the primary, plugged"]
    plot = _plot(language, runs, out / plot_name("language", language))
    unigram = runs[0].validations[-1][f"validation/bits_per_byte_{language}_unigram"]
    return "\n".join(
        [
            f"## Learning {plain(language)}",
            "",
            "Bits per byte on validation: of the model learned over, and of the *primary model with the embeddings",
            f"plugged in*, which all tasks use. The unigram model has {unigram:.3f}. A low figure alone does not mean",
            "that tasks transfer.",
            "",
            plain_table(titles, rows),
            "",
            *(
                line
                for table in (fertility_table(language, runs), source_table(language, runs))
                if table
                for line in (table, "")
            ),
            f"![bits per byte against compute]({plot.name})",
        ]
    )


def _plot(language: str, runs: list[RunRecord], path: Path) -> Path:
    figure, axes = new_plot("FLOPs of adaptation", "bits per byte of the primary, plugged", f"learning {language}")
    for run in runs:
        flops = run.cost_at("compute/flops")
        share = len(languages_of(run))
        points = [
            (flops[line["update"]] / share, bits)
            for line in run.validations
            if line["update"] in flops and (bits := primary_bits(run, language, line)) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=run.name)
    unigram = runs[0].validations[-1][f"validation/bits_per_byte_{language}_unigram"]
    axes.axhline(unigram, color="grey", linestyle="--", label="unigram model")
    axes.legend()
    return save_plot(figure, path)

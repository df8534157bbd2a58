"""Draw the front page's figure from the first edition's ledgers: accuracy against compute, mean of the five languages.

python tools/study/overview.py --out docs/result.svg
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.errors import CommandParser, run_command, writing
from tools.study.ledger import Ledger, Ledgers

TASK = "libreoffice"
# Series of the first edition, and what a reader without the study calls them: (label, colour).
SHOWN = {
    "standard-focus": ("all 12 layers (standard adaptation)", "#52606d"),
    "mini-4-focus": ("mini-model of 4 layers", "#2b6cb0"),
    "mini-4-words": ("mini-model of 4 layers, with a bilingual word list", "#c05621"),
}


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the figure (.svg or .png)")
    options = parser.parse_args()

    import matplotlib

    from megamini.commands.reporting.plots import new_plot

    ledgers = Ledgers(Path(__file__).resolve().parent / "first").read()
    title = "Zero-shot accuracy, mean of Danish, German, Italian, Russian and Spanish"
    figure, axes = new_plot("FLOPs to learn one language", "accuracy (%)", title)
    axes.title.set_fontsize(10)
    for series, (label, colour) in SHOWN.items():
        axes.plot(*zip(*mean_curve(ledgers, series), strict=True), "o-", markersize=4, color=colour, label=label)
    axes.legend(fontsize=9, loc="lower right")
    matplotlib.rcParams["svg.hashsalt"] = "megamini"  # the same bytes each time
    figure.tight_layout()
    with writing(options.out):
        figure.savefig(options.out, dpi=120, metadata={"Date": None} if options.out.suffix == ".svg" else None)
    print(options.out)


def mean_curve(ledgers: Sequence[Ledger], series: str) -> list[tuple[float, float]]:
    """(FLOPs, percent) along the way: the mean over languages of the mean over seeds and fine-tuned models."""
    found: dict[int, dict[str, list[float]]] = {}
    flops: dict[int, list[float]] = {}
    for one in ledgers:
        for result in one.results if one.facts.get("series") == series else []:
            if result.task == TASK and result.learned is not None:
                updates = result.learned.updates
                found.setdefault(updates, {}).setdefault(result.language, []).append(result.values["accuracy"])
                flops.setdefault(updates, []).append(result.learned.flops)
    languages = {language for values in found.values() for language in values}
    return [
        (statistics.fmean(flops[updates]), 100 * statistics.fmean(map(statistics.fmean, found[updates].values())))
        for updates in sorted(found)
        if found[updates].keys() == languages
    ]


if __name__ == "__main__":
    run_command(main)

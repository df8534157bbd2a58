"""Draw the front page's figure from the stored ledgers: accuracy against compute, mean of the five languages.

python tools/study/overview.py --out docs/result.svg
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.errors import CommandParser, run_command, writing

HERE = Path(__file__).resolve().parent
# Series of the study, and what a reader without the study calls them: (label, colour, line style).
SHOWN = {
    "standard-focus": ("all 12 layers (standard adaptation)", "#52606d", "-"),
    "mini-4-focus": ("mini-model of 4 layers", "#2b6cb0", "-"),
    "mini-4-words": ("mini-model of 4 layers, with a bilingual word list", "#c05621", "-"),
}


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--study", type=Path, default=HERE / "study.yaml", metavar="FILE", help="what the series are")
    parser.add_argument("--ledgers", type=Path, default=HERE / "ledgers", metavar="DIR", help="what to draw")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the figure (.svg or .png)")
    options = parser.parse_args()

    import matplotlib

    from megamini.commands.reporting.plots import new_plot
    from megamini.commands.reporting.quality import curves
    from tools.study.grid import load_study
    from tools.study.ledger import read_ledgers
    from tools.study.pooling import MEAN, pooled, with_mean
    from tools.study.sections import HEADLINE

    record = pooled(load_study(options.study), read_ledgers(options.ledgers))
    of = [curve for curve in curves([record]) if curve.task == HEADLINE]
    title = "Zero-shot accuracy, mean of Danish, German, Italian, Russian and Spanish"
    figure, axes = new_plot("FLOPs to learn one language", "accuracy (%)", title)
    axes.title.set_fontsize(10)
    for series, (label, colour, style) in SHOWN.items():
        mean = next(c for c in with_mean(of, series) if c.language == MEAN and c.series == series)
        points = [(flops, 100 * value) for flops, value in mean.against("flops")]
        axes.plot(*zip(*points, strict=True), style, marker="o", markersize=4, color=colour, label=label)
    axes.legend(fontsize=9, loc="lower right")
    matplotlib.rcParams["svg.hashsalt"] = "megamini"  # the same bytes each time
    figure.tight_layout()
    with writing(options.out):
        figure.savefig(options.out, dpi=120, metadata={"Date": None} if options.out.suffix == ".svg" else None)
    print(options.out)


if __name__ == "__main__":
    run_command(main)

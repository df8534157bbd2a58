"""Show what runs have cost and reached: a table on the console, and a report with plots in a folder.

python tools/report.py runs/quickstart-en --out runs/report
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megamini.errors import CommandParser, UserError, run_command, writing
from megamini.training.telemetry import read_metrics

_LEDGER = {"updates", "tokens", "flops", "seconds", "ranks", "device"}


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for report.md and the plots")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        sections = [_describe(Path(run), out) for run in arguments.runs]
        report = "\n\n".join(sections) + "\n"
        (out / "report.md").write_text(report, encoding="utf-8")
    print(report)
    print(f"report with plots: {out / 'report.md'}")


def _describe(run: Path, out: Path) -> str:
    """Markdown on one run, and its plot."""
    ledger, metrics = _read(run)
    validation = [line for line in metrics if any(name.startswith("validation/loss") for name in line)]
    if not validation:
        raise UserError(f"{run}: no validation was recorded; let the run get further")
    last = validation[-1]
    heads = [name.removeprefix("validation/loss_") for name in last if name.startswith("validation/loss_")]
    unigram = last["validation/loss_unigram"]
    rows = [
        f"| {_title(head)} | {last[f'validation/loss_{head}']:.3f} | "
        f"{last[f'validation/bits_per_byte_{head}']:.3f} | {unigram - last[f'validation/loss_{head}']:+.3f} |"
        for head in sorted(heads, key=lambda head: last[f"validation/loss_{head}"])
    ]
    plot = out / f"{run.name}.png"
    _plot(metrics, heads, plot)
    return "\n".join(
        [
            f"## {run.name}",
            "",
            f"{ledger['updates']:,} updates, {ledger['tokens']:,} tokens, {ledger['flops']:.3g} FLOPs, "
            f"{ledger['seconds']:,.0f} s on {ledger['ranks']} x {ledger['device']}; validation after update "
            f"{last['update']:,}:",
            "",
            "| head | loss (nats) | bits per byte | below the unigram model (nats) |",
            "| --- | ---: | ---: | ---: |",
            *rows,
            "",
            f"![loss along the way]({plot.name})",
        ]
    )


def _read(run: Path) -> tuple[dict, list[dict[str, float]]]:
    path = run / "compute.json"
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
        metrics = list(read_metrics(run / "metrics.jsonl"))
    except (OSError, ValueError) as error:
        raise UserError(f"{run}: not a run directory with compute.json and metrics.jsonl: {error}") from None
    missing = sorted(_LEDGER - set(ledger)) if isinstance(ledger, dict) else sorted(_LEDGER)
    if missing:
        raise UserError(f"{path}: has no '{missing[0]}'; it is written anew when the run goes on or ends")
    return ledger, metrics


def _title(head: str) -> str:
    if head == "unigram":
        return "unigram model"
    return "primary" if head == "primary" else f"mini-model at layer {head.removeprefix('exit_')}"


def _plot(metrics: list[dict[str, float]], heads: list[str], path: Path) -> None:
    """Training and validation loss of every head against tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tokens = {line["update"]: line["compute/tokens"] / 1e6 for line in metrics if "compute/tokens" in line}
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for number, head in enumerate(head for head in heads if head != "unigram"):
        for stage, look in {"train": {"alpha": 0.35}, "validation": {"marker": "o", "label": _title(head)}}.items():
            name = f"{stage}/loss_{head}"
            points = [line for line in metrics if name in line and line["update"] in tokens]
            axes.plot([tokens[p["update"]] for p in points], [p[name] for p in points], color=f"C{number}", **look)
    unigram = next(line["validation/loss_unigram"] for line in metrics if "validation/loss_unigram" in line)
    axes.axhline(unigram, color="grey", linestyle="--", label=_title("unigram"))
    axes.set(xlabel="tokens (millions)", ylabel="masked-LM loss (nats)", title=path.stem)
    axes.legend(title="validation (thin: training)")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    run_command(main)

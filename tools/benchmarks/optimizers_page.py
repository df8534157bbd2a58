"""The page of `tools/benchmarks/optimizers.py`: tables and plots from the runs and steps that were measured."""

import json
import statistics
from pathlib import Path

from megamini.commands.reporting.plots import new_plot, save_plot
from megamini.commands.reporting.tables import table

HERE = Path(__file__).with_name("optimizers")
PAGE = Path(__file__).with_name("optimizers.md")
_MEASURED = ("en", "mini", "standard")
UPDATE_TOKENS = (4_096, 16_384, 131_072, 1_048_576)


def write_page(grid: dict, runs: list[dict]) -> None:
    plots = [plot(shape, [one for one in runs if one["shape"] == shape]) for shape in grid["shapes"]]
    sections = [(HERE / "head.md").read_text(encoding="utf-8").rstrip()]
    sections += [section(shape, grid, runs, path) for shape, path in zip(grid["shapes"], plots, strict=True) if path]
    if (HERE / "transfer.json").exists():
        sections.append(transfer(grid, json.loads((HERE / "transfer.json").read_text())))
    steps = HERE / "steps.json"
    sections += [overhead(json.loads(steps.read_text()))] if steps.exists() else []
    PAGE.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print(PAGE)


def labels_of(runs: list[dict]) -> dict[str, list[dict]]:
    """Runs that differ in their seed alone, by label and length."""
    found: dict[str, list[dict]] = {}
    for one in runs:
        found.setdefault(f"{one['label']}, {one['updates']:,} updates", []).append(one)
    return found


def section(shape: str, grid: dict, runs: list[dict], path: Path) -> str:
    """Losses at the end, and what it took to get to the shape's target."""
    target = grid["shapes"][shape]["target"]
    rows = []
    for label, own in labels_of([one for one in runs if one["shape"] == shape]).items():
        ends = [one["curve"][-1][1] for one in own]
        reached = [tokens_to(one, target) for one in own]
        cells = ["-"] * 3
        if all(reached):
            tokens = statistics.median(reached)
            first = own[0]
            flops = tokens * (first["flops"] + first["optimizer_flops"]) / first["tokens"]
            each = [one["cpu_seconds"] / one["tokens"] for one in own if one["cpu_seconds"] is not None]
            seconds = f"{tokens * statistics.median(each):,.0f}" if each else "-"
            cells = [f"{tokens / 1e6:.2f}M", f"{flops:.3g}", seconds]
        rows.append(
            [label, str(len(own)), f"{own[0]['tokens'] / 1e6:.2f}M", f"{statistics.median(ends):.3f}",
             f"{min(ends):.3f} to {max(ends):.3f}", *cells]
        )  # fmt: skip
    titles = ["run", "seeds", "tokens", "loss at the end", "range", f"tokens to {target}", "FLOPs", "core-seconds"]
    return f"## {grid['shapes'][shape]['about']}\n\n{table(titles, rows)}\n\n![Validation loss](optimizers/{path.name})"


def tokens_to(run: dict, loss: float) -> float | None:
    """Tokens after which the primary head's validation loss is at or below `loss`, on straight lines between
    validations; None where it never is."""
    per_update = run["tokens"] / run["updates"]
    before = None
    for update, value, *_ in run["curve"]:
        if value <= loss:
            share = 1.0 if before is None else (before[1] - loss) / (before[1] - value)
            start = 0 if before is None else before[0]
            return (start + share * (update - start)) * per_update
        before = (update, value)
    return None


def plot(shape: str, runs: list[dict]) -> Path | None:
    if not runs:
        return None
    figure, axes = new_plot("million tokens", "validation loss of the primary head, nats", shape)
    for number, (label, own) in enumerate(labels_of(runs).items()):
        for one in own:
            per_update = one["tokens"] / one["updates"] / 1e6
            axes.plot(
                [point[0] * per_update for point in one["curve"]],
                [point[1] for point in one["curve"]],
                color=f"C{number}",
                linestyle="-" if "muon" in label else "--",
                label=label if one is own[0] else None,
                linewidth=1,
            )
    axes.legend(fontsize=7)
    return save_plot(figure, HERE / f"{shape}.png")


def transfer(grid: dict, found: dict) -> str:
    """Accuracy in English and, zero-shot, in German of primaries of about equal loss, pair by pair."""
    rows = []
    for name in (name for pair in grid["transfer"] for name in pair if name in found):
        accuracy = found[name]["accuracy"]
        cells = [f"{100 * one['mean']:.1f} ± {100 * one['deviation']:.1f}" for one in map(accuracy.get, _MEASURED)]
        rows.append([name, f"{found[name]['loss']:.3f}", *cells])
    titles = ["primary", "its loss", "English", "German over the mini-model", "German over all layers"]
    return (
        "## German plugged into primaries of about equal loss\n\n"
        "LibreOffice pages, accuracy in percent: mean of three fine-tuned models, ± their standard deviation.\n"
        f"German is learned by the quickstart's recipes, without a label.\n\n{table(titles, rows)}"
    )


def overhead(steps: dict) -> str:
    """Muon's step over an update with AdamW, measured and by formula, by tokens of an update."""
    rows = []
    for name, one in steps["shapes"].items():
        extra = one["muon"] - one["adamw"]
        for tokens in UPDATE_TOKENS:
            passes = tokens / one["tokens"]
            measured, formula = extra / (passes * one["pass"] + one["adamw"]), one["muon_flops"] / passes / one["flops"]
            rows.append([name, f"{tokens:,}", f"{measured:.1%}", f"{formula:.1%}"])
    titles = ["layers-width", "tokens of an update", "measured", "FLOPs by formula"]
    return (
        "## What the step costs\n\n"
        f"Seconds that Muon's step takes beyond AdamW's, over those of the whole update with AdamW, in one process\n"
        f"with {steps['threads']} threads, fp32, on {steps['hardware']}; medians of {steps['rounds']} interleaved "
        f"rounds.\nA pass of 4,096 tokens is timed, and counted as often as an update has them."
        f" FLOPs: by formula, Newton-Schulz over forward and backward.\n\n{table(titles, rows)}"
    )

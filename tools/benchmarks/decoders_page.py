"""The page of `tools/benchmarks/decoders.py`: a table of languages, a plot, further training, multiple choice."""

from pathlib import Path

from megamini.commands.reporting.plots import new_plot, save_plot
from megamini.commands.reporting.tables import table
from tools.benchmarks.page import heading

PAGE = Path(__file__).with_name("decoders.md")
PLOT = Path(__file__).with_name("decoders") / "curves.png"
SHARE = 0.95  # of standard's gain, which counts as reached
NAMES = {"de": "German", "es": "Spanish"}
MODES = {
    "continue": "the whole body",
    "lora": "LoRA",
    "embeddings": "embeddings",
    "bilingual": "a bilingual stage behind LoRA",
}


def write_page(found: dict) -> None:
    plot(found["languages"])
    speeds = {language: speed_up(curves) for language, curves in found["languages"].items()}
    point = "; ".join(
        f"{NAMES[language]}: " + (f"{speed:.1f} times less compute" if speed else "not reached")
        for language, speed in speeds.items()
    )
    primary = found["primary"]
    sections = [
        heading(
            "A decoder learns languages over 4 of its 12 layers",
            ["torch", "transformers"],
            f"{SHARE:.0%} of what learning over all 12 layers gains, reached over 4 layers. {point}."
            "\nOne small model and one seed: a lead, no proof.",
        ),
        "Llama shape: 12 layers, width 192, 8,000 pieces, exit behind layer 4, on LibreOffice's English help: "
        f"{primary['updates']:,} updates, {primary['tokens'] / 1e6:.1f}M tokens, {primary['flops']:.3g} FLOPs. English "
        f"held-out text (Debian's handbook): {primary['bits']:.3f} bits per byte. Compute: FLOPs of learning alone, by "
        "formula. Before and at the end: validation text, in the whole model. The last column: the handbook in that "
        "language.",
        table(
            ["language", "over", "FLOPs", "bits per byte before", "at the end", "FLOPs to the target", "handbook"],
            [row for language, curves in found["languages"].items() for row in rows(language, curves)],
        ),
        f"![Bits per byte against compute]({PLOT.parent.name}/{PLOT.name})",
        "## Trained further, in German with a quarter of English",
        "The German model learns on by each mode of docs/decoders.md. Both languages are read by the German pieces. "
        "Validation, bits per byte:",
        table(
            ["mode", "updates", "FLOPs", "German before", "German after", "English before", "English after"],
            [
                [MODES[mode], f"{one['updates']:,}", f"{one['flops']:.3g}", *ends(one["de"]), *ends(one["en"])]
                for mode, one in found["modes"].items()
            ],
        ),
    ]
    if found["choice"]:
        sections += [
            "## Which text goes on?",
            "Multiple choice of four by likelihood (lm-eval, task `text`, 500 questions from the handbook). "
            "Chance is 25%. Accuracy (acc_norm), ± standard error:",
            table(
                ["model", "German", "English"],
                [
                    [
                        name,
                        *(
                            f"{100 * one[task][0]:.1f} ± {100 * one[task][1]:.1f}"
                            for task in ("megamini_text_de", "megamini_text_en")
                        ),
                    ]
                    for name, one in found["choice"].items()
                ],
            ),
        ]
    PAGE.write_text("\n\n".join(section.rstrip() for section in sections) + "\n", encoding="utf-8")
    print(PAGE)


def rows(language: str, curves: dict) -> list[list[str]]:
    """One for each method: what learning has cost and brought."""
    goal = target(curves)
    return [
        [NAMES[language], {"mini": "4 layers", "standard": "12 layers"}[method], f"{one['flops']:.3g}",
         *ends(one["curve"]), f"{cost:.3g}" if (cost := cost_of(one, goal)) is not None else "-", f"{one['bits']:.3f}"]
        for method, one in curves.items()
    ]  # fmt: skip


def ends(curve: list[list[float]]) -> list[str]:
    return [f"{curve[0][1]:.3f}", f"{curve[-1][1]:.3f}"]


def target(curves: dict) -> float:
    """Bits per byte at which most of standard's gain, from its own start to its best, is there."""
    values = [value for _, value in curves["standard"]["curve"]]
    return values[0] - SHARE * (values[0] - min(values))


def cost_of(run: dict, goal: float) -> float | None:
    """FLOPs until `goal`, on straight lines between validations; None where it is never reached."""
    before = run["curve"][0]
    for update, value in run["curve"]:
        if value <= goal:
            share = (before[1] - goal) / (before[1] - value) if before[1] > value else 0.0
            return (before[0] + share * (update - before[0])) * run["flops"] / run["updates"]
        before = (update, value)
    return None


def speed_up(curves: dict) -> float | None:
    """How many times less FLOPs than standard the mini-model needs to the target; None where it does not get there."""
    costs = [cost_of(curves[method], target(curves)) for method in ("standard", "mini")]
    return None if None in costs or not costs[1] else costs[0] / costs[1]


def plot(languages: dict) -> None:
    figure, axes = new_plot("FLOPs of learning", "bits per byte of validation text, whole model", "")
    for language, curves in languages.items():
        for method, one in curves.items():
            each = one["flops"] / one["updates"]
            axes.plot(
                [update * each for update, _ in one["curve"]], [value for _, value in one["curve"]],
                linestyle="-" if method == "mini" else "--",
                label=f"{NAMES[language]}, {'4' if method == 'mini' else '12'} layers",
            )  # fmt: skip
    axes.legend()
    PLOT.parent.mkdir(exist_ok=True)
    save_plot(figure, PLOT)

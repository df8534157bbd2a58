"""One pretraining run: what its heads have reached, beside the unigram model, and its curves."""

import re
from pathlib import Path

from megamini.commands.reporting.plots import new_plot, plot_name, save_plot
from megamini.commands.reporting.runs import RunRecord
from megamini.commands.reporting.tables import cost_sentence, plain_table
from megamini.markup import plain


def pretraining_section(run: RunRecord, out: Path) -> str:
    """Markdown on the run, and its plot."""
    last = run.validations[-1]
    heads = [name.removeprefix("validation/loss_") for name in last if name.startswith("validation/loss_")]
    rows = [
        [
            _title(head),
            f"{last[f'validation/loss_{head}']:.3f}",
            f"{last[f'validation/bits_per_byte_{head}']:.3f}",
            f"{last[f'validation/loss_unigram{_language(head)}'] - last[f'validation/loss_{head}']:+.3f}",
        ]
        for head in sorted(heads, key=lambda head: last[f"validation/loss_{head}"])
    ]
    plot = _plot(run, heads, out / plot_name(run.name))
    return "\n".join(
        [
            f"## {plain(run.name)}: pretraining",
            "",
            f"{cost_sentence(run)}; validation after update {last['update']:,}:",
            "",
            plain_table(["head", "loss (nats)", "bits per byte", "below the unigram model (nats)"], rows),
            "",
            f"![loss along the way]({plot.name})",
        ]
    )


def _language(head: str) -> str:
    """What stands behind the head in the name of a measurement of one of several texts: _de, or nothing."""
    return re.fullmatch(r"(?:exit_\d+|[a-z]+)(|_.+)", head)[1]


def _title(head: str) -> str:
    language = _language(head)
    name = head.removesuffix(language)
    known = {"unigram": "unigram model", "primary": "primary"}
    title = known.get(name) or f"mini-model at layer {name.removeprefix('exit_')}"
    return f"{title}, {language[1:]}" if language else title


def _plot(run: RunRecord, heads: list[str], path: Path) -> Path:
    """Training and validation loss of every head against tokens."""
    figure, axes = new_plot("tokens (millions)", "loss (nats)", run.name)
    tokens = {update: count / 1e6 for update, count in run.cost_at("compute/tokens").items()}
    for number, head in enumerate(head for head in heads if not head.startswith("unigram")):
        for stage, style in {"train": {"alpha": 0.35}, "validation": {"marker": "o", "label": _title(head)}}.items():
            name = f"{stage}/loss_{head}"
            points = [line for line in run.metrics if name in line and line["update"] in tokens]
            axes.plot([tokens[p["update"]] for p in points], [p[name] for p in points], color=f"C{number}", **style)
    axes.axhline(run.validations[0]["validation/loss_unigram"], color="grey", linestyle="--", label=_title("unigram"))
    axes.legend(title="validation (thin: training)")
    return save_plot(figure, path)

"""Languages from every starting point, at equal tokens: zero-shot accuracy and bits per byte along the way.

python tools/benchmarks/starting_points.py               # after `make quickstart`; writes starting_points/README.md
python tools/benchmarks/starting_points.py --languages de el --updates 250 --starts focus combined

Over the quickstart's mini-model, and evaluated with its English task models. Text, word lists (FreeDict) and parallel
text (2,000 lines of help pages, none of a test page) come from Debian's packages. Finished parts are kept: the same
command again goes on. Loss alone misleads, so neither is shown without the other.
"""

import argparse
import importlib.util
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.downstream.results import Mean, means, read_results
from tools.benchmarks.page import ROOT, heading, table

RECIPES = "launch/recipes/quickstart"
LANGUAGES = ("de", "es", "ru", "el", "tr")
LINES = 2000  # of parallel text
STEPS = (0, 50, 250, 1500)
_WORDS = "adaptation.lexicon=data/text/freedict.{language}.tsv"
_PARALLEL = "adaptation.parallel=[data/text/parallel-{language}.{language}.txt, data/text/parallel-{language}.en.txt]"
# Name -> changes of the recipe.
STARTS: dict[str, Sequence[str]] = {
    "random": ["adaptation.initialise=random"],
    "unigram": ["adaptation.initialise=unigram"],
    "overlap": ["adaptation.initialise=overlap"],
    "subword": ["adaptation.initialise=subword"],
    "focus, as published": ["adaptation.initialise=focus", "adaptation.calibrate=false"],
    "focus": ["adaptation.initialise=focus"],
    "combined": ["adaptation.initialise=combined"],
    "combined, word list": ["adaptation.initialise=combined", _WORDS],
    "combined, parallel": ["adaptation.initialise=combined", _PARALLEL],
    "combined, both": ["adaptation.initialise=combined", _WORDS, _PARALLEL],
    "distil": ["adaptation.initialise=distil"],
    "distil, word list": ["adaptation.initialise=distil", _WORDS],
    "distil, parallel": ["adaptation.initialise=distil", _PARALLEL],
}
OUTSIDERS: dict[str, Sequence[str]] = {
    "deepfocus": ["adaptation.initialise=focus", "adaptation.calibrate=false", "adaptation.focus_through=deepfocus"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=STEPS[-1], help="length of each run (default: %(default)s)")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES, help="(default: all)")
    parser.add_argument(
        "--starts", nargs="+", choices=[*STARTS, *OUTSIDERS], help="(default: all that can be had here)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""), help="folder of the page")
    options = parser.parse_args()
    starts = options.starts or [*STARTS, *(name for name in OUTSIDERS if importlib.util.find_spec(name))]
    steps = [step for step in STEPS if step <= options.updates]
    found: dict[str, dict[tuple[str, int], dict[str, Mean]]] = {}
    for language in options.languages:
        _prepare(language)
        found[language] = _measure(language, starts, steps, options.updates)
    options.out.mkdir(parents=True, exist_ok=True)
    page = _page(found, starts, steps)
    (options.out / "README.md").write_text(page + "\n", encoding="utf-8")
    print(page)


def _prepare(language: str) -> None:
    """Text, word list, parallel text and data of a language, as the quickstart has them of German."""
    _python("tools/fetch_text.py", "libreoffice-help", "--languages", "en", language, "--out", "data/text")
    _python("tools/fetch_text.py", "freedict", "--languages", language, "--out", "data/text")
    pages = [f"data/text/libreoffice-help.{one}.jsonl" for one in (language, "en")]
    _python("tools/parallel_text.py", *pages, "--lines", LINES, "--out", f"data/text/parallel-{language}")
    _python(
        "tools/prepare_data.py", "--text", pages[0], "--language", language, "--vocab-size", 8000, "--block-length", 64,
        "--validation-share", 0.03, "--out", f"data/quickstart-{language}",
    )  # fmt: skip


def _measure(
    language: str, starts: Sequence[str], steps: Sequence[int], updates: int
) -> dict[tuple[str, int], dict[str, Mean]]:
    """(start, updates) -> metric -> its mean over the fine-tuned models."""
    packs, names = [], {}
    for number, start in enumerate(starts):
        name = f"start-{language}-{updates}-{start.replace(', ', '-').replace(' ', '-')}"
        _python("launch/adapt.py", f"{RECIPES}/adapt_mini.yaml", f"name={name}", *changes(start, language, updates))
        kept = {f"{language}-step-{step:08d}" for step in steps}
        for folder in (ROOT / "runs" / name / "packs").glob(f"{language}-step-*"):
            if folder.name not in kept:
                shutil.rmtree(folder)  # packs between the steps that are measured: several gigabytes in all
        for step in steps:
            names[f"s{number}-{step}"] = (start, step)
            packs.append(f"s{number}-{step}: runs/{name}/packs/{language}-step-{step:08d}")
    evaluation = f"start-zero-shot-{language}-{updates}"
    _python(
        "launch/evaluate.py", f"{RECIPES}/evaluate.yaml", f"name={evaluation}", f"packs={{{', '.join(packs)}}}",
        "model.primary=runs/quickstart-en/export/primary", f"tasks.libreoffice.languages=[{language}]",
        "tasks.libreoffice.reference_lines=false",
        f"measures.bits_per_byte.data={{{language}: data/quickstart-{language}}}",
    )  # fmt: skip
    found: dict[tuple[str, int], dict[str, Mean]] = {place: {} for place in names.values()}
    for mean in means(read_results(ROOT / "runs" / evaluation)):
        if mean.pack in names:
            found[names[mean.pack]][mean.metric] = mean
    return found


def changes(start: str, language: str, updates: int) -> list[str]:
    """Of the recipe, for a run of so many updates from a start, with a pack at each of the steps."""
    return [
        f"data.path=data/quickstart-{language}",
        f"schedule.duration={updates} updates",
        f"schedule.warmup={max(1, updates // 10)} updates",
        f"adaptation.pack_every={STEPS[1] if updates >= STEPS[1] else 1} updates",
        *(change.format(language=language) for change in {**STARTS, **OUTSIDERS}[start]),
    ]


def _page(found: dict[str, dict[tuple[str, int], dict[str, Mean]]], starts: Sequence[str], steps: Sequence[int]) -> str:
    parts = [
        heading("A new language from different starting points", ["torch", "transformers", "scikit-learn"]),
        "Token embeddings are learned over the quickstart's mini-model (2 of 6 layers, width 128, 8,000 pieces each).\n"
        "Columns: updates. Zero-shot accuracy on LibreOffice pages is in percent: mean of the fine-tuned models, "
        "± their\nstandard deviation (of means over languages: ± half the 95% interval over languages). One adaptation "
        f"seed. `word list`:\nFreeDict. `parallel`: {LINES:,} lines of help pages, none of a test page.",
    ]
    for metric, title in (("accuracy", "Zero-shot accuracy"), ("bits_per_byte", "Bits per byte")):
        parts += [f"## {title}", f"### Mean of {len(found)} languages", _over_languages(found, starts, steps, metric)]
        for language, cells in found.items():
            rows = [[start, *(_cell(cells[start, step][metric]) for step in steps)] for start in starts]
            parts += [f"### {language}", table(["start", *steps], rows)]
    return "\n\n".join(parts)


def _over_languages(
    found: dict[str, dict[tuple[str, int], dict[str, Mean]]], starts: Sequence[str], steps: Sequence[int], metric: str
) -> str:
    rows = []
    for start in starts:
        row = [start]
        for step in steps:
            values = [cells[start, step][metric].mean * _scale(metric) for cells in found.values()]
            row.append(f"{statistics.mean(values):.{_digits(metric)}f}{_half_interval(values, metric)}")
        rows.append(row)
    return table(["start", *steps], rows)


def _cell(mean: Mean) -> str:
    digits, scale = _digits(mean.metric), _scale(mean.metric)
    spread = f" ± {mean.deviation * scale:.{digits}f}" if mean.seeds > 1 else ""
    return f"{mean.mean * scale:.{digits}f}{spread}"


def _half_interval(values: list[float], metric: str) -> str:
    if len(values) < 2:
        return ""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f" ± {half:.{_digits(metric)}f}"


def _scale(metric: str) -> int:
    return 100 if metric == "accuracy" else 1


def _digits(metric: str) -> int:
    return 1 if metric == "accuracy" else 3


def _python(script: str, *arguments: object) -> None:
    subprocess.run([sys.executable, script, *map(str, arguments)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()

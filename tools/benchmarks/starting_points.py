"""One language from every starting point, at equal tokens: loss along the way, and zero-shot accuracy beside it.

python tools/benchmarks/starting_points.py          # after `make quickstart`; writes starting_points/ beside this file

German over the quickstart's mini-model; the English task models of the quickstart are evaluated with every pack.
Finished runs are kept: the same command again goes on. Loss alone misleads, so neither is shown without the other.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.commands.reporting.adaptation import adaptation_section
from megamini.commands.reporting.evaluation import evaluation_section, read_evaluation
from megamini.commands.reporting.runs import read_run
from megamini.commands.reporting.speed import speed_section
from tools.benchmarks.page import ROOT, heading

KINDS = ("random", "unigram", "overlap", "focus")
RECIPES = "launch/recipes/quickstart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1500, help="length of each run (default: 1500)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""), help="folder of the page")
    options = parser.parse_args()
    names = {kind: f"start-{kind}-{options.updates}" for kind in KINDS}
    for kind, name in names.items():
        _run(
            "adapt", "adapt_mini", name, f"adaptation.initialise={kind}", f"schedule.duration={options.updates} updates"
        )
    evaluation = f"start-zero-shot-{options.updates}"
    packs = ", ".join(f"{kind}: runs/{name}/packs/de-step-*" for kind, name in names.items())
    _run("evaluate", "evaluate", evaluation, f"packs={{{packs}}}")

    options.out.mkdir(parents=True, exist_ok=True)
    runs = [read_run(ROOT / "runs" / name) for name in names.values()]
    record = read_evaluation(ROOT / "runs" / evaluation)
    page = "\n\n".join(
        [
            heading("A new language from different starting points", ["torch", "transformers", "scikit-learn"]),
            "Token embeddings of German learned over the quickstart's mini-model (2 of 6 layers, d 128, 8,000 pieces "
            "each) from four starting points (`adaptation.initialise`). One adaptation seed; three fine-tuned models.",
            adaptation_section(runs, options.out),
            evaluation_section(record),
            speed_section([record], options.out),
        ]
    )
    (options.out / "README.md").write_text(page + "\n", encoding="utf-8")
    print(page)


def _run(entry: str, recipe: str, name: str, *overrides: str) -> None:
    command = [sys.executable, f"launch/{entry}.py", f"{RECIPES}/{recipe}.yaml", f"name={name}", *overrides]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()

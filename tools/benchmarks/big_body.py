"""Resident memory of every rank while a big body is built, trained, saved and exported under ZeRO-3.

python tools/benchmarks/big_body.py --data data/quickstart-en --work DIR      # 1B parameters, 4 ranks; 20 GiB of memory
python tools/benchmarks/big_body.py --data data/quickstart-en --work DIR --nvme         # optimizer states on DIR's disk

Real commands: `deepspeed launch/pretrain.py` for three updates with a validation and a checkpoint, then
`tools/export.py`. Each rank notes the peak of its resident memory in every phase. Linux only.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import yaml

from tools.benchmarks.page import ROOT, free_port, heading, start_peak, status_bytes, table

_ON_DISK = (
    ". AdamW's fp32 states, a part of it, are on disk (`offload_optimizer` to NVMe).\n"
    "They are saved and read one sub-group at a time."
)
PHASES = ("before it", "building", "engine", "training")
NOTES = "BIG_BODY_NOTES"
# Small buckets: DeepSpeed's default lets a rank gather a billion parameters at a time, which is all of this body.
ZERO = {
    "stage": 3,
    "sub_group_size": 20_000_000,
    "reduce_bucket_size": 20_000_000,
    "stage3_prefetch_bucket_size": 10_000_000,
    "stage3_max_live_parameters": 60_000_000,
    "stage3_max_reuse_distance": 0,
}


def main() -> None:
    if NOTES in os.environ:
        _as_a_rank(Path(os.environ[NOTES]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a data directory, such as the quickstart's")
    add("--work", type=Path, required=True, help="folder for the run; 12 bytes a parameter, and 4 for the export")
    add("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="page to write")
    add("--ranks", type=int, default=4)
    add("--nvme", action="store_true", help="optimizer states on disk, in the work folder: 16 bytes a parameter more")
    add("--layers", type=int, default=20)
    add("--hidden", type=int, default=2048)
    options = parser.parse_args()
    if (options.work / "run").exists():
        raise SystemExit(f"{options.work}: holds a run already, whose memory nobody has watched; give another folder")
    options.work.mkdir(parents=True, exist_ok=True)
    notes = options.work / "notes"
    notes.mkdir(exist_ok=True)
    _command(options, notes)
    export = [sys.executable, "tools/export.py", options.work / "run", options.work / "export"]
    process = subprocess.Popen([str(part) for part in export], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the export failed")
    exported = usage.ru_maxrss * 1024
    ranks = [json.loads(path.read_text()) for path in sorted(notes.glob("*.json"))]
    page = _page(options, ranks, exported)
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _command(options: argparse.Namespace, notes: Path) -> None:
    recipe = {
        "name": "run",
        "model": {
            "family": "xlm-roberta-xl",
            "config": {
                "num_hidden_layers": options.layers,
                "hidden_size": options.hidden,
                "num_attention_heads": 16,
                "intermediate_size": 4 * options.hidden,
            },
            "exits": [options.layers // 3],
        },
        "data": {"path": str(options.data.resolve()), "workers": 0},
        "objective": {"method": "minijoint"},
        "optimizer": {"learning_rate": 1e-5},
        "schedule": {"duration": "3 updates", "warmup": "1 updates"},
        "training": {
            "global_batch": options.ranks, "micro_batch": 1, "precision": "bf16", "runs": str(options.work.resolve()),
            "activation_checkpointing": True,
        },
        "telemetry": {
            "every": 1, "validate_every": "3 updates", "validation_blocks": options.ranks, "peak_tflops": 1.0,
        },
        "checkpoint": {"in_background": False},
    }  # fmt: skip
    (options.work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    # Gradients are kept in bf16 as well: in fp32 the states of this body do not fit beside one another here.
    json_values = {"zero_optimization": dict(ZERO), "data_types": {"grad_accum_dtype": "bf16"}}
    if options.nvme:
        device = {"device": "nvme", "nvme_path": str((options.work / "swap").resolve()), "pin_memory": False}
        json_values["zero_optimization"]["offload_optimizer"] = device
    (options.work / "deepspeed.json").write_text(json.dumps(json_values))
    command = ["deepspeed", "--num_gpus", str(options.ranks), "--master_port", str(free_port()), __file__,
               str(options.work / "recipe.yaml"), "--deepspeed_config",
               str(options.work / "deepspeed.json")]  # fmt: skip
    environment = os.environ | {
        NOTES: str(notes.resolve()), "OMP_NUM_THREADS": "1",
        # What is freed goes back at once: glibc would keep it, and holes between blocks that live, for later.
        "MALLOC_MMAP_THRESHOLD_": "131072",
    }  # fmt: skip
    with (options.work / "log.txt").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"the run failed: {options.work / 'log.txt'}")


def _as_a_rank(notes: Path) -> None:
    """`launch/pretrain.py` with a look at the peak of resident memory in every phase."""
    from megamini.training import run
    from megamini.training.engines import deepspeed_engine

    peaks: dict[str, int] = {}

    def watched(phase: str, call: Callable) -> Callable:
        def watching(*arguments, **named):
            if not peaks:
                peaks[PHASES[0]] = status_bytes("VmRSS")
            start_peak()
            try:
                return call(*arguments, **named)
            finally:
                peaks[phase] = status_bytes("VmHWM")
                (notes / f"{os.environ['RANK']}.json").write_text(json.dumps(peaks))

        return watching

    run.build_primary = watched("building", run.build_primary)
    deepspeed_engine.DeepSpeedEngine = watched("engine", deepspeed_engine.DeepSpeedEngine)
    run.execute = watched("training", run.execute)
    runpy.run_path(str(ROOT / "launch/pretrain.py"), run_name="__main__")


def _page(options: argparse.Namespace, ranks: list[dict[str, int]], exported: int) -> str:
    parameters = _parameters(options.work / "export")
    whole = 4 * parameters
    states = 16 * parameters / options.ranks  # weights and gradients in bf16; master copies, two moments in fp32
    most = {phase: max(rank[phase] for rank in ranks) for phase in PHASES}
    rows = [[phase, _gib(most[phase]), _gib(most[phase] - most[PHASES[0]])] for phase in PHASES]
    rows.append(["export (one process)", _gib(exported), ""])
    return "\n".join(
        [
            heading(
                "Memory of a rank with a big body",
                ["torch", "deepspeed"],
                f"A model is built on {options.ranks} ranks, and no rank needs memory for all of it: building takes "
                f"{_gib(most['building'] - most[PHASES[0]])}\non a rank. The whole model in fp32 is {_gib(whole)}.",
            ),
            f"The model has {parameters / 1e9:.2f}B parameters (XLM-R XL's shape, {options.layers} layers, "
            f"d {options.hidden}) and an exit.",
            f"It is trained by ZeRO-3 on {options.ranks} ranks in bf16. A rank's own share of the training states is",
            f"{_gib(states)}{_ON_DISK if options.nvme else '.'}",
            "Peak of resident memory, the largest of all ranks:",
            "",
            table(["phase", "resident", "above the process before it"], rows),
            "Training: three updates, a validation, a checkpoint. AdamW's fp32 states alone are 12 bytes a parameter:",
            f"{_gib(12 * parameters / options.ranks)} on each of {options.ranks} ranks. Beyond its own share, a rank "
            "holds what it gathers at a time"
            + (",\nand buffers for a few sub-groups of states." if options.nvme else "."),
            "",
            "These settings are in no configuration of `ds_configs/`:",
            "",
            "* buckets and live parameters that are small beside the body. With DeepSpeed's defaults, a rank could",
            "  gather all of it;",
            "* gradients kept in bf16;",
            "* `MALLOC_MMAP_THRESHOLD_=131072`. Without it, the C library keeps freed memory (building: 2.0 GiB).",
            "",
        ]
    )


def _parameters(folder: Path) -> int:
    """Of the exported model, from the files' headers."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()

"""`training.compile` on every engine: how far losses are from those without it, graphs, and where they end early.

python tools/benchmarks/compiled_layers.py     # a quarter of an hour; writes compiled_layers.md beside this file

Small models on the CPU, without dropout, 6 updates with a validation after each. Each run is a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.errors import CommandParser
from tools.benchmarks.page import ROOT, free_port, heading, table
from tools.gpu_checks.context import Context, write_recipe

UPDATES = 6
COLUMNS = (
    "engine", "body", "what trains", "precision", "largest relative difference of losses and norms",
    "graphs after update 1, 2, 6", "graph breaks",
)  # fmt: skip
# Engine (a ZeRO stage, or plain), body, what trains, precision, changes of the recipe.
CASES: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    ("plain", "roberta", "minijoint", "fp32", {}),
    ("plain", "modernbert", "minijoint", "fp32", {}),
    ("plain", "llama", "causal", "fp32", {"objective__method": "causal", "model__exits": []}),
    ("plain", "roberta", "relearning, 2 layers", "fp32", {"adaptation": "mini"}),
    ("plain", "modernbert", "relearning, 3 layers", "fp32", {"adaptation": "standard"}),
    ("zero1", "roberta", "minijoint, checkpointing", "bf16", {"training__activation_checkpointing": True}),
    ("zero2", "modernbert", "minijoint", "fp32", {}),
)


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="by number, from 0")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--run", nargs=2, metavar=("RECIPE", "ENGINE"), help="one run, for this script itself")
    options = parser.parse_args()
    if options.run:
        print(json.dumps(_train(Path(options.run[0]), options.run[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        context = Context("tiny", Path(folder), Path(folder) / "rows")
        rows = [_row(context, *CASES[number]) for number in options.cases]
    options.out.write_text(_page(rows), encoding="utf-8")


def _row(context: Context, engine: str, body: str, trains: str, precision: str, changes: dict[str, Any]) -> list[str]:
    found = {}
    for compiled in (False, True):
        name = f"{engine}-{body}-{trains}-{compiled}".replace(",", "").replace(" ", "-")
        values = _recipe(context, name, body, changes)
        values["training"] |= {"compile": compiled, "precision": precision}
        command = [sys.executable, __file__, "--run", write_recipe(context, values), engine]
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        environment["MASTER_PORT"] = str(free_port())
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{values['name']}: {done.stderr.strip().splitlines()[-1]}")
        metrics = context.work / "runs" / values["name"] / "metrics.jsonl"
        found[compiled] = _losses(metrics), json.loads(done.stdout.splitlines()[-1])
    (eager, _), (own, counts) = found[False], found[True]
    if eager.keys() != own.keys() or len(counts) < UPDATES:
        raise SystemExit(f"{engine}, {body}: the two runs have not logged the same")
    worst = max(abs(own[key] / eager[key] - 1) for key in eager)
    graphs = ", ".join(str(counts[update - 1][0]) for update in (1, 2, UPDATES))
    row = [engine, body, trains, precision, f"{worst:.1e}", graphs, str(counts[-1][1])]
    print(*row, flush=True)
    return row


def _recipe(context: Context, name: str, body: str, changes: dict[str, Any]) -> dict[str, Any]:
    method = changes.get("adaptation")
    values = context.recipe(name, **{key: value for key, value in changes.items() if "__" in key})
    values["model"] |= {"family": body, "dropout": 0.0}
    if body == "modernbert":
        values["model"]["config"]["local_attention"] = 16
    values["schedule"] = {"duration": f"{UPDATES} updates", "warmup": "1 updates"}
    values["telemetry"]["validate_every"] = "1 updates"
    if method:
        source = context.work / "runs" / f"plain-{body}-minijoint-False"
        del values["model"], values["objective"]
        values["adaptation"] = {"source": str(source), "method": method, "initialise": "random", "dropout": 0.0}
    return values


def _losses(path: Path) -> dict[tuple[int, str], float]:
    """Losses and gradient norms by update and name."""
    lines = map(json.loads, path.read_text().splitlines())
    return {
        (line["update"], key): value
        for line in lines
        for key, value in line.items()
        if "loss" in key or "grad_norm" in key
    }


def _train(path: Path, engine: str) -> list[tuple[int, int]]:
    """Graphs and graph breaks after each update and its validation."""
    from megamini.adaptation.recipe import AdaptationRecipe
    from megamini.recipes.recipe import Recipe
    from megamini.training.engines.compiled import graphs_and_breaks
    from megamini.training.loop import Telemetry

    values, counts, record = json.loads(path.read_text()), [], Telemetry.record

    def record_and_count(self: Telemetry, update: int, scalars: dict[str, float]) -> None:
        record(self, update, scalars)
        if any(name.startswith("validation/") for name in scalars):
            counts.append(graphs_and_breaks())

    with mock.patch.object(Telemetry, "record", record_and_count):
        if "adaptation" in values:
            from megamini.adaptation.relearn import adapt

            adapt(AdaptationRecipe.model_validate(values))
        elif engine == "plain":
            from megamini.training.run import pretrain_plain

            pretrain_plain(Recipe.model_validate(values))
        else:
            from megamini.training.run import pretrain_deepspeed

            stage = {"zero_optimization": {"stage": int(engine.removeprefix("zero"))}}
            pretrain_deepspeed(Recipe.model_validate(values), stage, "compiled_layers.py")
    return counts


def _page(rows: list[list[str]]) -> str:
    worst = {name: max(float(row[4]) for row in rows if row[3] == name) for name in {row[3] for row in rows}}
    ends = sum(int(row[6]) for row in rows)
    later = sum(len(set(row[5].split(", ")[1:])) > 1 for row in rows)
    found = ", ".join(f"{value:.1e} in {name}" for name, value in sorted(worst.items(), reverse=True))
    return "\n".join(
        [
            heading(
                "Compiled layers",
                ["torch", "transformers", "deepspeed"],
                f"With `training.compile`, losses and gradient norms are at most {found} from those without it.\n"
                f"{ends} graphs end early. {later} of {len(rows)} runs compile a graph after their second update.",
            ),
            f"Small models, no dropout, {UPDATES} updates with a validation after each. A difference is relative. "
            "`zero` is DeepSpeed, one rank.",
            "",
            table(COLUMNS, rows),
            "ZeRO stage 3 is refused: it gathers weights inside each layer.",
            "No times: those of a CPU say nothing about a GPU. `tools/gpu_check.py` compares them there.",
            "",
        ]
    )


if __name__ == "__main__":
    main()

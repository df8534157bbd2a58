"""The same run here and on the CPU in fp32, and losses of this device, kept for later versions.

With `training.deterministic`: golden losses are compared bit for bit, and a GPU may add in another order without it.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.relearn import adapt
from megamini.files import write_atomically
from megamini.recipes.recipe import Recipe
from megamini.training.run import pretrain_plain
from tools.gpu_checks.context import Context, run_script, write_recipe

_TOLERANCE = 1e-3  # relative, of any of 20 losses: other kernels add in another order


def run(context: Context) -> None:
    for method, exits in (("minijoint", [2]), ("mlm", [])):
        changes = {"objective__method": method, "model__exits": exits, "model__dropout": 0.0}
        values = context.recipe(f"parity-{method}", **changes, training__deterministic=True)
        _compare(context, method, values, "pretrain", lambda one: pretrain_plain(Recipe.model_validate(one)))
    values = context.adaptation("parity-relearning", context.work / "runs/parity-minijoint", "mini", deterministic=True)
    values["adaptation"]["dropout"] = 0.0
    _compare(context, "relearning", values, "adapt", lambda one: adapt(AdaptationRecipe.model_validate(one)))


def _compare(
    context: Context, what: str, values: dict[str, Any], command: str, run_here: Callable[[dict[str, Any]], object]
) -> None:
    """The recipe here, and by launch/`command`.py on the CPU."""
    name = values["name"]
    run_here(values)
    on_cpu = write_recipe(context, values | {"name": f"{name}-cpu"})
    run_script(context, f"launch/{command}.py", on_cpu, CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu")
    here, there = context.losses(name), context.losses(f"{name}-cpu")
    difference = max(abs(a - b) / b for a, b in zip(here, there, strict=True))
    says = f"largest relative difference of {len(here)} losses {difference:.1e}, allowed {_TOLERANCE:g}"
    context.tell(f"{what}, beside the CPU", difference <= _TOLERANCE, says=says)
    _golden(context, name, here)


def _golden(context: Context, name: str, losses: list[float]) -> None:
    """Compared with those that lie beside the page for this device and PyTorch, or kept there."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    key = re.sub(r"[^A-Za-z0-9.]+", "-", f"{device}_torch-{torch.__version__}")
    path = Path(os.environ["GPU_CHECK_OUT"]) / "golden" / f"{key}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if name in known:
        equal = known[name] == losses
        context.tell(f"{name}: golden losses", equal, says=f"{'equal to' if equal else 'not'} those of {path.name}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({**known, name: losses}, indent=1) + "\n")
    context.tell(f"{name}: golden losses", True, says=f"new, kept in golden/{path.name} for later versions")

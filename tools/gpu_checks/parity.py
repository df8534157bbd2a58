"""The same run here and on the CPU in fp32, and losses of this device, kept for later versions."""

import json
import os
import re
from pathlib import Path

import torch

from megamini.files import write_atomically
from megamini.recipes.recipe import Recipe
from megamini.training.run import pretrain_plain
from tools.gpu_checks.context import Context, run_script, write_recipe

_TOLERANCE = 1e-3  # relative, of any of 20 losses: other kernels add in another order


def run(context: Context) -> None:
    for method, exits in (("minijoint", [2]), ("mlm", [])):
        name = f"parity-{method}"
        changes = {"objective__method": method, "model__exits": exits, "model__dropout": 0.0}
        pretrain_plain(Recipe.model_validate(context.recipe(name, **changes)))
        on_cpu = write_recipe(context, context.recipe(f"{name}-cpu", **changes))
        run_script(context, "launch/pretrain.py", on_cpu, CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu")
        here, there = context.losses(name), context.losses(f"{name}-cpu")
        difference = max(abs(a - b) / b for a, b in zip(here, there, strict=True))
        says = f"largest relative difference of {len(here)} losses {difference:.1e}, allowed {_TOLERANCE:g}"
        context.tell(f"{method}, beside the CPU", difference <= _TOLERANCE, says=says)
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

"""A run that is killed and started again ends bit for bit as one that was not, with `training.deterministic`."""

import os
import signal
import subprocess
import sys
import time

from tools.gpu_checks.context import ROOT, Context, run_script, write_recipe


def run(context: Context) -> None:
    # Without it a GPU may add in another order each time.
    changes = {"training__precision": "bf16", "training__deterministic": True, "schedule__duration": "40 updates"}
    recipes = {}
    for name in ("uninterrupted", "killed"):
        values = context.recipe(name, **changes) | {"checkpoint": {"every": "10 updates", "in_background": False}}
        recipes[name] = write_recipe(context, values)
    run_script(context, "launch/pretrain.py", recipes["uninterrupted"])
    checkpoints = context.work / "runs/killed/checkpoints"
    process = subprocess.Popen(
        [sys.executable, "launch/pretrain.py", recipes["killed"]], cwd=ROOT, start_new_session=True
    )
    while process.poll() is None and not (checkpoints / "step-00000010/manifest.json").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run_script(context, "launch/pretrain.py", recipes["killed"])
    resumed = next((line for line in done.stdout.splitlines() if "resuming from" in line), "not resumed")
    whole, broken = (context.losses(name) for name in recipes)
    different = sum(one != other for one, other in zip(whole, broken, strict=False))
    says = f"{resumed}; {different} of {len(whole)} losses differ"
    context.tell("killed and resumed", not different and len(broken) == len(whole) and "step-" in resumed, says=says)

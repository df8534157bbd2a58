"""DeepSpeed at every ZeRO stage, on all GPUs of this machine; where there are several, adaptation on all of them."""

import json
import sys
import time
from pathlib import Path

import torch

from tools.gpu_checks.context import Context, run_script, write_recipe

_CASES = ((1, "bf16"), (2, "bf16"), (3, "bf16"), (0, "fp32"), (3, "fp32"), (2, "fp16"))
_SECONDS = 30.0


def run(context: Context) -> None:
    gpus = torch.cuda.device_count()
    cases = _CASES if gpus else ((1, "bf16"), (3, "fp32"))
    for stage, precision in cases:
        name = f"zero-{stage}-{precision}"
        if context.left < (_SECONDS if gpus else 10):
            context.tell(f"{name} and what follows", True, ranks="", says="not reached: no time left", seconds="")
            return
        values = context.recipe(name, training__precision=precision)
        config = context.work / f"zero-{stage}.json"
        config.write_text(json.dumps({"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}))
        arguments = ["launch/pretrain.py", write_recipe(context, values), "--deepspeed_config", str(config)]
        if gpus > 1:
            launcher = str(Path(sys.executable).with_name("deepspeed"))
            arguments = [launcher, "--num_gpus", str(gpus), *arguments]
        started = time.monotonic()
        try:
            run_script(context, *arguments, **({} if gpus else {"DS_ACCELERATOR": "cpu"}))
        except Exception as error:  # the next stage is to run all the same
            context.tell(name, False, ranks=gpus, says=f"{type(error).__name__}: {error}", seconds="")
        else:
            context.judge(name, context.losses(name), time.monotonic() - started, ranks=max(1, gpus))
    if gpus > 1:
        _adapt_on_all(context, gpus)


def _adapt_on_all(context: Context, gpus: int) -> None:
    """Data parallel over NCCL, without DeepSpeed, from a model of the cases above."""
    name, source = "adapt-mini-bf16-torchrun", context.work / "runs/zero-1-bf16"
    recipe = write_recipe(context, context.adaptation(name, source, "mini", precision="bf16"))
    started = time.monotonic()
    try:
        run_script(context, "-m", "torch.distributed.run", f"--nproc_per_node={gpus}", "launch/adapt.py", recipe)
    except Exception as error:  # the page is to say it
        context.tell(name, False, ranks=gpus, says=f"{type(error).__name__}: {error}", seconds="")
    else:
        context.judge(name, context.losses(name), time.monotonic() - started, ranks=gpus)

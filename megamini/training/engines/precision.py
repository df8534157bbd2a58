"""`training.precision: auto`: what this machine is fastest in, resolved when a run begins and kept to its end."""

from pathlib import Path
from typing import TypeVar

import torch
import yaml

from megamini.costs.flops import measured_matmul_rate
from megamini.errors import UserError
from megamini.machine import best_device
from megamini.recipes.sections import RunRecipe

# How much faster bf16's matrix products must be on a CPU: its casts, norms and the optimizer's copies take some back.
_GAIN = 1.25

AnyRecipe = TypeVar("AnyRecipe", bound=RunRecipe)


def resolve_precision(recipe: AnyRecipe) -> AnyRecipe:
    """The recipe with a precision in place of `auto`, and a line that says which and why; for runs of one process.

    A run that has begun keeps its own. A GPU gets bf16 where it has it, but for Apple's; a CPU where a measurement of
    matrix products shows a gain; else fp32.
    """
    if recipe.training.precision != "auto":
        return recipe
    begun = recipe.run_directory / "recipe.yaml"
    if begun.is_file():
        precision, reason = _precision_in(begun), "as it began"
    elif torch.cuda.is_available():
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        reason = torch.cuda.get_device_name()
    elif best_device().type == "mps":
        precision, reason = "fp32", "an Apple GPU"
    else:
        gain = measured_matmul_rate("cpu", torch.bfloat16) / measured_matmul_rate("cpu", torch.float32)
        precision = "bf16" if gain >= _GAIN else "fp32"
        reason = f"matrix products in bf16 at {gain:.2f} times the rate of fp32, measured"
    print(f"training.precision: auto is {precision} here ({reason})", flush=True)
    training = recipe.training.model_copy(update={"precision": precision})
    return recipe.model_copy(update={"training": training})


def _precision_in(path: Path) -> str:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))["training"]["precision"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        raise UserError(f"{path}: torn, or not the recipe of a run; choose another name, or remove the run") from None

"""The precision that a run computes in: what `auto` is here, what this machine can do, and TF32 where it is asked for.

`auto` is resolved when a run begins and kept to its end.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import yaml

from megamini.costs.flops import measured_matmul_rate
from megamini.errors import UserError
from megamini.machine import best_device, gpu_has_bf16, gpu_has_tf32, is_first_rank, use_deterministic_kernels
from megamini.recipes.recipe import RunRecipe
from megamini.recipes.sections import TrainingSection

# How much faster bf16's matrix products must be on a CPU: its casts, norms and the optimizer's copies take some back.
_GAIN = 1.25

AnyRecipe = TypeVar("AnyRecipe", bound=RunRecipe)


def resolve_precision(
    recipe: AnyRecipe, section: str = "training", best: Callable[[], tuple[str, str]] | None = None
) -> AnyRecipe:
    """The recipe with a precision in place of `auto` in a section, and a line that says which and why.

    A run that has begun keeps its own. best: gives the precision of a new run, and why; unset: `fastest`.
    """
    values = getattr(recipe, section)
    if values.precision != "auto":
        return recipe
    begun = recipe.run_directory / "recipe.yaml"
    precision, reason = (_precision_in(begun, section), "as it began") if begun.is_file() else (best or fastest)()
    if is_first_rank():
        print(f"{section}.precision: auto is {precision} here ({reason})", flush=True)
    return recipe.model_copy(update={section: values.model_copy(update={"precision": precision})})


def fastest() -> tuple[str, str]:
    """For training from fp32 master weights: bf16 on a GPU that has it, fp16 with a loss scale on one that has not; on
    a CPU bf16 where a measurement of matrix products shows a gain, else fp32, as on an Apple GPU."""
    if torch.cuda.is_available():
        return "bf16" if gpu_has_bf16() else "fp16", torch.cuda.get_device_name()
    if best_device().type == "mps":
        return "fp32", "an Apple GPU"
    gain = measured_matmul_rate("cpu", torch.bfloat16) / measured_matmul_rate("cpu", torch.float32)
    precision = "bf16" if gain >= _GAIN else "fp32"
    return precision, f"matrix products in bf16 at {gain:.2f} times the rate of fp32, measured"


def near_fp32() -> tuple[str, str]:
    """For what has always been done in fp32: TF32 where the GPU has it, else fp32."""
    if torch.cuda.is_available():
        return "tf32" if gpu_has_tf32() else "fp32", torch.cuda.get_device_name()
    return "fp32", "no GPU"


def use_kernels_of(training: TrainingSection) -> None:
    """Precision and determinism of a recipe, for this process. Raises UserError as `use_precision` does."""
    use_precision(training.precision, "training.precision")
    if training.deterministic:
        use_deterministic_kernels()


def use_precision(precision: str, key: str) -> None:
    """Make this process' matrix products those of a precision, before anything is computed.

    key: of the recipe, for messages. Raises UserError for one that this machine does not have.
    """
    on_gpu = torch.cuda.is_available()
    if precision != "fp32" and best_device().type == "mps":
        raise UserError(f"{key}: {precision} was never tried on an Apple GPU (mps); use fp32")
    if precision == "fp16" and not on_gpu:
        raise UserError(f"{key}: fp16 does not run on a CPU; use bf16 or fp32")
    if precision == "tf32" and not (on_gpu and gpu_has_tf32()):
        raise UserError(f"{key}: tf32 needs an NVIDIA GPU of 2020 or later (Ampere); use fp32 here")
    if precision == "bf16" and on_gpu and not gpu_has_bf16() and is_first_rank():
        print(
            f"{key}: {torch.cuda.get_device_name()} has no bf16 units, and computes bf16 more slowly than fp32; use "
            "auto, fp16 or fp32",
            flush=True,
        )
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def _precision_in(path: Path, section: str) -> str:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))[section].get("precision", "fp32")
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: torn, or not the recipe of a run; choose another name, or remove the run") from None

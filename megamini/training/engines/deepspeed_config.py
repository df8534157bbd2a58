"""The DeepSpeed JSON: sharding, offload and communication are its own; training keys belong to the recipe.

DeepSpeed ignores unknown top-level keys without a word (a mistyped `zero_optimisation` trains at stage 0), so every
key is checked here.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from megamini.data.batches import BatchPlan
from megamini.errors import UserError, did_you_mean
from megamini.recipes.recipe import Recipe
from megamini.recipes.shipped import find
from megamini.training.setup import Sharding

# What a run gets without --deepspeed_config: ds_configs/zero1.json.
DEFAULT: dict[str, Any] = {
    "zero_optimization": {
        "stage": 1,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": 200_000_000,
        "allgather_bucket_size": 200_000_000,
    }
}

ALLOWED_KEYS = frozenset(
    {
        "zero_optimization",
        "communication_data_type",
        "data_types",
        "prescale_gradients",
        "gradient_predivide_factor",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "comms_logger",
        "wall_clock_breakdown",
        "memory_breakdown",
        "dump_state",
    }
)

# Unknown keys inside these are ignored without a word as well; DeepSpeed itself checks zero_optimization.
_SECTIONS = {
    "data_types": ("grad_accum_dtype",),
    "comms_logger": ("enabled", "prof_all", "prof_ops", "verbose", "debug"),
}
_ADAM_BUFFERS = 4  # what DeepSpeed keeps in memory of a sub-group on disk
_DATA_TYPES = ("fp32", "fp16", "bf16")

# Keys that DeepSpeed knows and a recipe decides, with the recipe's key.
OWNED_BY_RECIPE = {
    "train_batch_size": "training.global_batch",
    "train_micro_batch_size_per_gpu": "training.micro_batch",
    "gradient_accumulation_steps": "training.global_batch and training.micro_batch",
    "gradient_clipping": "optimizer.clip_norm",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "bf16": "training.precision",
    "bfloat16": "training.precision",
    "fp16": "training.precision",
    "amp": "training.precision",
    "torch_autocast": "training.precision",
    "activation_checkpointing": "training.activation_checkpointing",
    "compile": "training.compile",
    "seed": "training.seed",
    "steps_per_print": "telemetry.every",
    "tensorboard": "telemetry",
    "wandb": "telemetry",
    "csv_monitor": "telemetry",
    "comet": "telemetry",
    "checkpoint": "checkpoint",
}


def read_deepspeed_json(path: str | Path) -> dict[str, Any]:
    """The user's JSON, or the one of that name that comes along, with every top-level key checked; `UserError` naming
    file and key otherwise."""
    path = find(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; ds_configs/ holds ready DeepSpeed configurations") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; a DeepSpeed configuration is a JSON file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(values).__name__}")
    wrong = [
        f"'{key}' belongs to the recipe: set {OWNED_BY_RECIPE[key]} there"
        if key in OWNED_BY_RECIPE
        else f"unknown key '{key}'{did_you_mean(key, ALLOWED_KEYS)}"
        for key in values
        if key not in ALLOWED_KEYS
    ]
    if wrong:
        raise UserError(f"{path}: {'; '.join(wrong)}")
    for key, value in values.items():
        _check_value(path, key, value)
    return values


def _check_value(path: Path, key: str, value: Any) -> None:
    if key in ("zero_optimization", *_SECTIONS) and not isinstance(value, dict):
        example = {"stage": 2} if key == "zero_optimization" else {}
        raise UserError(f"{path}: {key}: expected an object such as {json.dumps(example)}, found {json.dumps(value)}")
    stage = value.get("stage", 0) if key == "zero_optimization" else 0
    if isinstance(stage, bool) or not isinstance(stage, int):
        raise UserError(f"{path}: zero_optimization.stage: expected 0, 1, 2 or 3, not {stage!r}")
    for name in value if key in _SECTIONS else ():
        if name not in _SECTIONS[key]:
            raise UserError(f"{path}: unknown key '{key}.{name}'{did_you_mean(name, _SECTIONS[key])}")
    data_type = value.get("grad_accum_dtype") if key == "data_types" else value
    if key in ("data_types", "communication_data_type") and data_type not in (*_DATA_TYPES, None):
        raise UserError(f"{path}: {key}: expected {', '.join(_DATA_TYPES)}, not {json.dumps(data_type)}")


def zero_stage(values: dict[str, Any]) -> int:
    """ZeRO stage of a DeepSpeed configuration."""
    return values.get("zero_optimization", {}).get("stage", 0)


def swap_folder(values: dict[str, Any]) -> Path | None:
    """Where optimizer states lie that are offloaded to disk; None where they lie in memory."""
    offload = _section(values.get("zero_optimization", {}), "offload_optimizer")
    return Path(offload["nvme_path"]) if offload.get("device") == "nvme" else None


def sharding_of(values: dict[str, Any]) -> Sharding:
    """What a configuration spreads, and takes off the device."""
    zero = values.get("zero_optimization", {})
    away = [_section(zero, f"offload_{what}").get("device", "none") != "none" for what in ("optimizer", "param")]
    return Sharding(zero_stage(values), *away)


def check_combination(values: dict[str, Any], precision: str) -> None:
    """Raise `UserError` for what DeepSpeed does not train correctly, or no checkpoint would hold, on any device."""
    stage = zero_stage(values)
    if precision == "auto":
        raise UserError("training.precision: auto is for runs without DeepSpeed; with it say bf16, fp16, tf32 or fp32")
    if precision in ("bf16", "fp16") and stage == 0:
        # Measured with DeepSpeed 0.19.8: the stage-0 low-precision optimizer starts with Adam's step at 1.
        raise UserError(f"training.precision: {precision} needs ZeRO stage 1 or higher; use ds_configs/zero1.json")
    zero = values.get("zero_optimization", {})
    if zero.get("round_robin_gradients"):
        # DeepSpeed 0.19.8 then lays parameters out otherwise than its table of them says, by which states are saved.
        raise UserError("zero_optimization.round_robin_gradients is not supported; leave it out")
    _check_offload(zero)


def _check_offload(zero: dict[str, Any]) -> None:
    key, offload = "zero_optimization.offload_optimizer", _section(zero, "offload_optimizer")
    # Both give part of the optimizer's state to another optimizer, which a checkpoint would not have.
    if offload.get("ratio", 1.0) != 1.0 or offload.get("super_offload"):
        raise UserError(f"{key}: ratio and super_offload are not supported; leave them out")
    if _section(zero, "offload_param").get("device") == "nvme":
        raise UserError("zero_optimization.offload_param.device: nvme is not supported; use cpu, or more ranks")
    if offload.get("device") != "nvme":
        return
    if zero.get("stage", 0) != 3:
        raise UserError(f"{key}.device: nvme needs ZeRO stage 3; use ds_configs/zero3_nvme.json")
    if not offload.get("nvme_path"):
        raise UserError(f"{key}.nvme_path: missing; give a folder on a local disk of each node")
    if offload.get("pipeline_read") or offload.get("pipeline_write"):
        raise UserError(f"{key}: pipeline_read and pipeline_write are not supported; leave them out")
    if offload.get("buffer_count", _ADAM_BUFFERS) < _ADAM_BUFFERS:
        raise UserError(f"{key}.buffer_count: {_ADAM_BUFFERS} or more: a weight, its gradient and two moments")


def _section(zero: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of zero_optimization, which DeepSpeed itself checks for what it holds."""
    values = zero.get(name)
    return values if isinstance(values, dict) else {}


def merge(values: dict[str, Any], recipe: Recipe, plan: BatchPlan, on_cpu: bool) -> dict[str, Any]:
    """The configuration DeepSpeed gets: the user's JSON and what the recipe decides.

    Raises `UserError` for a combination that DeepSpeed does not train correctly.
    """
    precision = recipe.training.precision
    if precision == "fp16" and on_cpu:
        raise UserError("training.precision: fp16 does not run on a CPU; use bf16 or fp32")
    check_combination(values, precision)
    if recipe.training.compile and zero_stage(values) == 3:
        raise UserError(
            "training.compile: not with ZeRO stage 3, which gathers and frees weights between any two operations; use "
            "ds_configs/zero1.json or zero2.json, or leave training.compile out"
        )
    muon = recipe.optimizer.muon_settings is not None
    if muon and values.get("zero_force_ds_cpu_optimizer"):
        raise UserError("zero_force_ds_cpu_optimizer: true leaves no room for optimizer.name: muon; leave it out")
    values = _with_own_swap_folder(values, recipe)
    return {
        # Many small gradients in bf16 would add up to less than they are.
        **({"data_types": {"grad_accum_dtype": "fp32"}} if precision == "bf16" else {}),
        **values,
        # Muon is an optimizer of our own, which works where the states lie.
        **({"zero_force_ds_cpu_optimizer": False} if muon else {}),
        "train_batch_size": plan.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        # Without the key DeepSpeed clips at 1.0 by itself.
        "gradient_clipping": recipe.optimizer.clip_norm,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "steps_per_print": None,
    }


def _with_own_swap_folder(values: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Optimizer states on disk lie in a folder of the run's own, since DeepSpeed names files by ranks alone."""
    folder = swap_folder(values)
    if folder is None:
        return values
    directory = str(recipe.run_directory.resolve())
    own = folder / f"{recipe.name}-{hashlib.sha256(directory.encode()).hexdigest()[:8]}"
    zero = values["zero_optimization"]
    offload = {**zero["offload_optimizer"], "nvme_path": str(own)}
    return {**values, "zero_optimization": {**zero, "offload_optimizer": offload}}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"key '{repeated[0]}' appears twice")
    return dict(pairs)

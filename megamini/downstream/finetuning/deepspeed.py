"""The DeepSpeed configuration that the library's Trainer gets; only imported under the `deepspeed` launcher."""

from typing import Any

from megamini.errors import UserError
from megamini.training.engines.deepspeed_config import (
    DEFAULT,
    check_combination,
    read_deepspeed_json,
    swap_folder,
    zero_stage,
)
from megamini.training.engines.deepspeed_engine import check_zero_section, start_process_group

# The Trainer fills these in from its own arguments, which are the recipe's.
_FROM_RECIPE: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
}


def trainer_configuration(path: str | None, precision: str) -> dict[str, Any]:
    """Join the launched ranks, and return the user's JSON with what the recipe decides left to the Trainer. All ranks.

    Raises UserError for a configuration that DeepSpeed would misunderstand.
    """
    values = read_deepspeed_json(path) if path else DEFAULT
    check_zero_section(values, path or "the default configuration")
    check_combination(values, precision)
    if swap_folder(values):
        # Of states on disk the Trainer's checkpoints would hold nothing that a resumed run reads.
        raise UserError(f"{path}: zero_optimization.offload_optimizer.device: nvme is for pretraining; use cpu")
    start_process_group()
    sharding = dict(values.get("zero_optimization", {}))
    if zero_stage(values) == 3:
        sharding["stage3_gather_16bit_weights_on_model_save"] = True  # saved whole, as an ordinary checkpoint
    in_fp32 = {"data_types": {"grad_accum_dtype": "fp32"}} if precision == "bf16" else {}  # as in pretraining
    return {**in_fp32, **values, "zero_optimization": sharding, **_FROM_RECIPE}

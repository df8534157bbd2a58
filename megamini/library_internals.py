"""Internals of libraries that megamini uses: listed here, checked where they are used, tested with these versions.

Any release may change them. So a module that uses some calls `check_internals(__name__)` as it is imported, and what
only an object has is checked by `check_attributes` when there is one: a line for another version than the tested one,
and a line instead of a traceback for a part that is gone.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from megamini.errors import UserError
from megamini.machine import is_first_rank

# The first is the one of requirements.txt; others are those that an open range installs.
TESTED = {
    "accelerate": ("1.15.0",),
    "deepspeed": ("0.19.8",),
    "torch": ("2.13.0",),
    "transformers": ("5.23.0", "5.24.0"),
}

_STAGE_1_AND_2 = "deepspeed.runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer"
_STAGE_3 = "deepspeed.runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3"


class Internals(NamedTuple):
    """parts: `module:name.of.attribute`, there as soon as the library is. marks: attributes that are set on its objects
    for it to read, or that only some of them have."""

    library: str
    parts: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


USED: dict[str, tuple[Internals, ...]] = {
    "megamini.adaptation.packs.plugged_export": (
        Internals("transformers", ("transformers.models.auto.auto_factory:_LazyAutoMapping",)),
    ),
    "megamini.adaptation.source": (Internals("transformers", ("transformers:PreTrainedModel._from_config",)),),
    "megamini.data.batches": (
        Internals("torch", ("torch.utils.data.dataloader:_MultiProcessingDataLoaderIter._shutdown_workers",)),
    ),
    "megamini.downstream.finetuning.trainer": (
        Internals("accelerate", ("accelerate.utils.other:is_deepspeed_available",)),
        Internals(
            "transformers",
            (
                "transformers.integrations.deepspeed:unset_hf_deepspeed_config",
                "transformers:Trainer._get_train_sampler",
            ),
            marks=("_n_gpu",),
        ),
    ),
    "megamini.models.cpu_dropout": (
        Internals(
            "transformers",
            (
                "transformers.integrations.sdpa_attention:sdpa_attention_forward",
                "transformers.masking_utils:sdpa_mask",
                "transformers:PretrainedConfig._attn_implementation",
            ),
        ),
    ),
    "megamini.models.families": (
        Internals("transformers", ("transformers.masking_utils:find_packed_sequence_indices",)),
    ),
    "megamini.models.primary_model": (
        Internals("transformers", ("transformers:PreTrainedModel._init_weights",), marks=("_is_hf_initialized",)),
    ),
    "megamini.models.materialise": (
        Internals("transformers", ("transformers:PreTrainedModel._init_weights",), marks=("_is_hf_initialized",)),
        Internals("torch", marks=("_parameters", "_buffers")),
    ),
    "megamini.models.pretrained": (Internals("transformers", ("transformers:PreTrainedModel._tied_weights_keys",)),),
    "megamini.training.engines.compiled": (
        Internals(
            "torch",
            (
                "torch._dynamo.utils:counters",
                "torch._inductor.cpp_builder:get_cpp_compiler",
                "torch.utils._triton:has_triton",
            ),
            marks=("_forward_hooks",),
        ),
        Internals("transformers", ("transformers.utils.output_capturing:maybe_install_capturing_hooks",)),
    ),
    "megamini.training.engines.deepspeed_engine": (
        Internals(
            "deepspeed",
            (
                "deepspeed.ops:__compatible_ops__",
                "deepspeed.runtime.zero.partition_parameters:is_zero_param",
                "deepspeed.runtime.zero.utils:ZERO_SUPPORTED_OPTIMIZERS",
            ),
            marks=("ds_numel", "ds_shape", "ds_tensor", "convert_to_zero_parameters", "loss_scaler"),
        ),
        Internals(
            "torch",
            ("torch.distributed.distributed_c10d:_world.pg_map", "torch.distributed.distributed_c10d:_set_pg_timeout"),
        ),
    ),
    "megamini.training.engines.fp32_sums": (
        Internals("deepspeed", ("deepspeed.runtime.engine:DeepSpeedEngine._do_optimizer_sanity_check",)),
    ),
    "megamini.training.engines.plain_engine": (Internals("torch", ("torch:_foreach_copy_", "torch:_foreach_mul_")),),
    "megamini.training.engines.zero_shards": (
        Internals(
            "deepspeed",
            (
                f"{_STAGE_1_AND_2}._lazy_init_hp_params_optimizer_state",
                f"{_STAGE_3}._optimizer_states_and_gradient_swap_in",
                f"{_STAGE_3}._optimizer_states_and_gradient_swap_out",
                f"{_STAGE_3}._partition_all_parameters",
                f"{_STAGE_3}._post_step",
                f"{_STAGE_3}._reassign_or_swap_out_partitioned_parameters",
                f"{_STAGE_3}._release_swap_buffers",
                f"{_STAGE_3}._swappable_optimizer_subgroup",
            ),
            marks=("_hp_optimizer_states_linked", "swap_optimizer", "optimizer_swapper"),
        ),
    ),
    "megamini.training.optimizers.matrix_exchange": (Internals("torch", ("torch:_foreach_copy_",)),),
    "megamini.training.optimizers.zero_layout": (
        Internals("deepspeed", marks=("_hp_mapping", "lp_fragment_address", "hp_fragment_address", "ds_numel")),
    ),
}

# What DeepSpeed's optimizers hold at each stage of ZeRO, beside the inner optimizer.
ZERO_ATTRIBUTES: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("optimizer", "single_partition_of_fp32_groups", "bit16_groups", "_hp_optimizer_states_linked"),
    2: ("optimizer", "single_partition_of_fp32_groups", "bit16_groups", "_hp_optimizer_states_linked"),
    3: (
        "optimizer", "fp32_partitioned_groups_flat", "fp16_groups", "sub_group_to_group_id", "grad_position",
        "get_param_id", "swap_optimizer",
    ),
}  # fmt: skip


def check_internals(module: str) -> None:
    """Check what `module` uses, as it is imported. Raises `UserError` where the installed version lacks a part."""
    for library, parts, _ in USED[module]:
        say_where_untested(library)
        for part in parts:
            if not _is_there(part):
                raise UserError(_gone(library, part))


def check_attributes(library: str, thing: Any, names: Sequence[str]) -> None:
    """Raise `UserError` where an object of a library lacks one of the attributes that are used."""
    for name in names:
        if not hasattr(thing, name):
            raise UserError(_gone(library, f"{type(thing).__name__}.{name}"))


@cache
def say_where_untested(library: str) -> None:
    """One line, from rank 0, where another version of a library is installed than the one tested here."""
    installed = _installed(library)
    if installed not in (None, *TESTED[library]) and is_first_rank():
        print(
            f"warning: {library} {installed} is installed, and megamini uses internals of it that were tested with "
            f"{' and '.join(TESTED[library])}; should something fail: pip install {library}=={TESTED[library][0]}",
            file=sys.stderr,
            flush=True,
        )


def _installed(library: str) -> str | None:
    """Its release, without what follows a plus sign, such as +cpu; None where it is not installed."""
    try:
        return importlib.metadata.version(library).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _gone(library: str, part: str) -> str:
    return (
        f"{library} {_installed(library)} lacks {part.replace(':', '.')}, which megamini uses; install the version "
        f"that was tested: pip install {library}=={TESTED[library][0]}"
    )


def _is_there(part: str) -> bool:
    name, _, path = part.partition(":")
    try:
        found = importlib.import_module(name)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError):
        return False
    return True

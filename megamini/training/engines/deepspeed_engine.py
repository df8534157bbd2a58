"""The DeepSpeed engine: ZeRO stages 0 to 3 behind the loop's interface. Adaptation never imports it."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.partition_parameters import is_zero_param
from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param
from pydantic import ValidationError
from torch import distributed, nn
from torch.distributed import distributed_c10d

from megamini.data.batches import Batch
from megamini.errors import UserError, did_you_mean
from megamini.library_internals import ZERO_ATTRIBUTES, check_attributes, check_internals
from megamini.machine import usable_cores
from megamini.models.cpu_dropout import draw_dropout_fast
from megamini.models.materialise import Partition
from megamini.models.primary_model import PrimaryModel
from megamini.recipes.recipe import Recipe
from megamini.training.engines.build_locks import refuse_stale_build_lock
from megamini.training.engines.compiled import compile_layers
from megamini.training.engines.deepspeed_config import swap_folder, zero_stage
from megamini.training.engines.engine import DTYPES, StepResult
from megamini.training.engines.fp32_sums import take_sums_of_zero
from megamini.training.engines.process_group import (
    cannot_meet,
    environment_of_one,
    gather_objects,
    ranks_on_this_node,
    use_own_gpu,
)
from megamini.training.engines.swap import clear_swap_folder, prepare_swap_folder, remove_swap_folder, state_bytes
from megamini.training.engines.zero_shards import in_memory, state_under_zero
from megamini.training.optimizers.matrix_exchange import MatrixExchange, matrices_of
from megamini.training.optimizers.muon import MuonWithAuxAdamW
from megamini.training.optimizers.optimizer import (
    TOKEN_GROUP,
    adamw_settings,
    build_optimizer,
    forget_moments,
    parameter_groups,
)
from megamini.training.optimizers.zero_layout import FlatTensor, flat_tensors
from megamini.training.safety.watchdog import START_MINUTES
from megamini.training.state.shards import Shards, Slice

check_internals(__name__)

# DeepSpeed 0.19.8 calls collectives by names that this PyTorch deprecates, on every rank.
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")

# What DeepSpeed's dynamic loss scaler (fp16) goes by.
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")

# How long ranks wait for one another: at the start, where some build kernels or read far files, and from the first
# update on, when it is always for the watchdog to speak first (`training.hang_minutes`).
_AT_THE_START = timedelta(minutes=60)
_WHILE_RUNNING = timedelta(minutes=START_MINUTES + 1)


def start_process_group(hang_minutes: float | None = None) -> tuple[int, int]:
    """Join the ranks that the launcher started, or be a group of one without it. Returns rank and number of ranks.

    Each uses the GPU of its own number from here on. hang_minutes: of a run with a watchdog, behind which collectives
    must not give up. Raises UserError where rank 0 cannot be reached, another run has its port, or there is no GPU.
    """
    environment_of_one()
    take_sums_of_zero()
    if on_cpu():
        # DeepSpeed would compile an extension here for a minute, and wait for ever on the lock of a killed build.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        use_own_gpu()
    if "OMP_NUM_THREADS" not in os.environ:  # also for DeepSpeed's CPU Adam, beside GPUs
        torch.set_num_threads(max(1, usable_cores() // ranks_on_this_node()))
    try:
        deepspeed.init_distributed(timeout=max(_AT_THE_START, _behind_the_watchdog(hang_minutes)), verbose=False)
    except distributed.DistNetworkError as error:
        raise cannot_meet(error) from None
    return distributed.get_rank(), distributed.get_world_size()


def on_cpu() -> bool:
    """Whether DeepSpeed's accelerator is the CPU."""
    return get_accelerator().device_name() == "cpu"


def check_zero_section(values: dict[str, Any], path: str) -> None:
    """Raise `UserError` for a mistyped key or value under zero_optimization, which DeepSpeed itself answers late."""
    try:
        DeepSpeedZeroConfig(**values.get("zero_optimization", {}))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            hint = did_you_mean(key, DeepSpeedZeroConfig.model_fields)
            raise UserError(f"{path}: unknown key 'zero_optimization.{key}'{hint}") from None
        raise UserError(f"{path}: zero_optimization.{key}: {problem['msg']}, not {problem['input']!r}") from None


def zero3_partition(recipe: Recipe, config: dict[str, Any]) -> Partition:
    """For a model in the making under ZeRO-3: leave this rank its share of a part that is complete. All ranks."""
    partitioned: list[nn.Parameter] = []

    def partition(part: nn.Module) -> None:
        move_buffers(part, get_accelerator().current_device_name())
        fresh = [p for p in part.parameters() if not is_zero_param(p)]  # a tied one may have had its turn
        for parameter in fresh:
            parameter.data = parameter.data.to(DTYPES[recipe.training.precision])
        if fresh and partitioned:  # as DeepSpeed does with what it finds whole: groups and swappers are made once
            partitioned[0].convert_to_zero_parameters(param_list=fresh)
        elif fresh:
            deepspeed.zero.Init(module=part, config_dict_or_path=config)
        partitioned.extend(fresh)

    return partition


def move_buffers(part: nn.Module, device: str) -> None:
    """To where the model runs. DeepSpeed moves what comes in whole; of what is partitioned already, only parameters."""
    for module in part.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


class DeepSpeedEngine:
    """One rank of a DeepSpeed run."""

    def __init__(self, model: PrimaryModel, recipe: Recipe, config: dict[str, Any]) -> None:
        self.model = model
        self.rank = distributed.get_rank()
        self.world_size = distributed.get_world_size()
        self._stage = zero_stage(config)
        self._clip_norm = recipe.optimizer.clip_norm
        hang = recipe.training.hang_minutes
        self._patience = hang and _behind_the_watchdog(hang)
        if on_cpu() and not recipe.training.compile:
            draw_dropout_fast(model)
        self._swap = swap_folder(config)
        if self._swap:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                clear_swap_folder(self._swap)
            distributed.barrier()
            total = sum(parameter.ds_numel for parameter in model.parameters() if parameter.requires_grad)
            muon = sum(p.ds_numel for p, _ in model.hidden_matrices) if recipe.optimizer.muon_settings else 0
            needed = state_bytes(total, muon) * ranks_on_this_node() // self.world_size
            prepare_swap_folder(self._swap, self.rank, needed)
        if recipe.training.compile:
            compile_layers(model, torch.device(get_accelerator().device_name()))
        groups = parameter_groups(model, recipe.optimizer)
        optimizer = _build_optimizer(groups, recipe, config)
        if self._stage == 0:
            config = {**config, "gradient_clipping": 0.0}  # clipped here, where the norm is looked at
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        check_attributes("deepspeed", self._engine.optimizer, ZERO_ATTRIBUTES[self._stage])
        self.device = torch.device(self._engine.device)
        self.description = f"DeepSpeed ZeRO-{self._stage}, {self.world_size} ranks on {self.device.type}"
        self._engine.train()
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        flat = flat_tensors(self._stage, trained, self._engine.optimizer, self.rank)
        self._set_exchanges(flat)
        self._state = state_under_zero(self._stage, trained, self._engine.optimizer, flat, self.rank, self.world_size)
        self.states_on_disk = self._state.on_disk

    def forward_backward(self, batch: Batch) -> torch.Tensor:
        loss, losses = self._engine(batch.input_ids, batch.positions, batch.labels, weights=batch.weights)
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch
        return losses.mean(1)

    def step(self, learning_rate: float) -> StepResult:
        if self._patience and self._engine.global_steps:  # the first update is behind us
            _wait_at_most(self._patience)
            self._patience = None
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._stage == 0:
            return self._clip_and_step()
        skipped = self._engine.skipped_steps
        self._engine.step()
        applied = self._engine.skipped_steps == skipped
        return StepResult(applied, float(self._engine.get_global_grad_norm()) if applied else math.inf)

    def evaluate(self, batch: Batch) -> torch.Tensor:
        self._engine.eval()
        with torch.no_grad():
            _, losses = self._engine(batch.input_ids, batch.positions, batch.labels, batch.attention_mask)
        self._engine.train()
        return losses

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        distributed.all_reduce(values)
        return values

    def gather_objects(self, value: Any) -> list[Any]:
        return gather_objects(value)

    def replace_token_matrices(self, matrices: Sequence[torch.Tensor]) -> None:
        for parameter, matrix in zip(self.model.token_matrices, matrices, strict=True):
            self._replace(parameter, matrix.to(self.device))
        for held in self._held_by_optimizer(TOKEN_GROUP):
            forget_moments(self._engine.optimizer.optimizer if self._stage else self._engine.optimizer, held)

    def _replace(self, parameter: nn.Parameter, matrix: torch.Tensor) -> None:
        if self._stage == 3:
            safe_set_local_fp32_param(parameter, self._own_partition(matrix, parameter))
        else:
            safe_set_full_fp32_param(parameter, matrix)
        # All ranks: ZeRO-3 gathers the parameter, and scatters what rank 0 has written.
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self._stage == 3), torch.no_grad():
            parameter.copy_(matrix)

    def parts(self) -> Iterator[list[Slice]]:
        return self._state.parts()

    def load(self, shards: Shards) -> None:
        self._state.load(shards)

    def scaler_state(self) -> dict[str, float]:
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        return {name: getattr(scaler, name) for name in _SCALER if hasattr(scaler, name)}

    def set_scaler_state(self, values: dict[str, float]) -> None:
        for name in self.scaler_state().keys() & values.keys():
            setattr(self._engine.optimizer.loss_scaler, name, values[name])

    def close(self) -> None:
        """Leave no states on disk that nobody would read. This rank alone."""
        if self._swap:
            remove_swap_folder(self._swap, self.rank)

    def _clip_and_step(self) -> StepResult:
        """Stage 0, where DeepSpeed neither looks at the norm nor skips: gradients are whole on every rank."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        applied = math.isfinite(gradient_norm := norm.item())
        if not applied:
            for parameter in parameters:
                parameter.grad = None  # AdamW leaves parameters without a gradient alone
        elif self._clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self._clip_norm, norm)
        self._engine.step()
        return StepResult(applied, gradient_norm)

    def _set_exchanges(self, flat: list[FlatTensor]) -> None:
        """Tell Muon where its matrices lie, once ZeRO has cut them up. All ranks."""
        counts = dict(self.model.hidden_matrices)
        for one in flat:
            optimizer = self._engine.optimizer.optimizer
            if "matrices" in optimizer.param_groups[one.group]:
                shapes = [getattr(parameter, "ds_shape", parameter.shape) for _, parameter in one.members]
                matrices = matrices_of(shapes, [counts[parameter] for _, parameter in one.members])
                exchange = MatrixExchange(matrices, self.gather_objects(one.parts), self.rank, self.device)
                optimizer.orthogonalise_by(one.tensor, exchange)

    def _own_partition(self, matrix: torch.Tensor, parameter: nn.Parameter) -> torch.Tensor:
        """This rank's slice of the flattened matrix, padded with zeros as ZeRO-3 pads it."""
        size = parameter.ds_tensor.ds_numel
        padded = nn.functional.pad(matrix.flatten(), (0, size * self.world_size - matrix.numel()))
        return padded.narrow(0, size * self.rank, size)

    def _held_by_optimizer(self, group: int) -> Iterator[torch.Tensor]:
        """The tensors under which the inner optimizer keeps the state of a parameter group on this rank, one by one."""
        optimizer = self._engine.optimizer
        if self._stage == 0:
            yield from optimizer.param_groups[group]["params"]
        elif self._stage == 3:
            for sub_group, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
                if optimizer.sub_group_to_group_id[sub_group] == group:
                    with in_memory(optimizer, sub_group, changed=True):
                        yield flat
        else:
            yield optimizer.single_partition_of_fp32_groups[group]


def _behind_the_watchdog(hang_minutes: float | None) -> timedelta:
    return max(_WHILE_RUNNING, timedelta(minutes=(hang_minutes or 0) + 1))


def _wait_at_most(timeout: timedelta) -> None:
    """For collectives of every group that this rank is in; DeepSpeed makes some without a timeout of their own."""
    for group in distributed_c10d._world.pg_map:
        distributed_c10d._set_pg_timeout(timeout, group)


def _build_optimizer(groups: list[dict[str, Any]], recipe: Recipe, config: dict[str, Any]) -> torch.optim.Optimizer:
    """As a process alone has it; DeepSpeed's CPU Adam where AdamW is offloaded, unless the JSON says otherwise."""
    offload = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    offloaded = offload.get("device", "none") != "none"
    if recipe.optimizer.muon_settings and MuonWithAuxAdamW not in ZERO_SUPPORTED_OPTIMIZERS:
        ZERO_SUPPORTED_OPTIMIZERS.append(MuonWithAuxAdamW)  # else DeepSpeed calls it untested
    if offloaded and config.get("zero_force_ds_cpu_optimizer", True):
        refuse_stale_build_lock("cpu_adam")
        return deepspeed.ops.adam.DeepSpeedCPUAdam(groups, adamw_mode=True, **adamw_settings(recipe.optimizer))
    return build_optimizer(groups, recipe.optimizer, recipe.training.precision)

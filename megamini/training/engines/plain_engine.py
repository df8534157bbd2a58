"""The plain PyTorch engine: one process or several ranks, on GPUs or the CPU, without DeepSpeed."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed, nn

from megamini.data.batches import Batch
from megamini.library_internals import check_internals
from megamini.models.cpu_dropout import draw_dropout_fast
from megamini.models.trained_model import TrainedModel
from megamini.recipes.optimizer import OptimizerSection
from megamini.recipes.sections import TrainingSection
from megamini.training.engines.allocator import keep_freed_memory
from megamini.training.engines.engine import DTYPES, StepResult
from megamini.training.engines.loss_scale import LossScale
from megamini.training.engines.process_group import gather_objects
from megamini.training.optimizers.optimizer import TOKEN_GROUP, build_optimizer, forget_moments, parameter_groups
from megamini.training.state.shards import Shards, Slice
from megamini.training.state.shards_of_optimizer import load_whole, tensors_of

check_internals(__name__)


class PlainEngine:
    """Plain PyTorch, on one GPU or the CPU, or as one of several ranks that have joined a process group.

    With bf16 or fp16, weights and activations are that, and the optimizer moves fp32 master copies with fp32 gradients;
    with fp16 under a loss scale. What does not train gets no gradient, no master and no optimizer state, and is not
    saved. Every rank holds all that trains, and moves it by the same gradient: the mean over ranks of fp32 sums.
    """

    states_on_disk = False

    def __init__(
        self,
        model: TrainedModel,
        optimizer: OptimizerSection,
        training: TrainingSection,
        accumulation: int,
        device: torch.device,
        alone: bool = False,
    ) -> None:
        self.device = device
        joined = distributed.is_initialized() and not alone
        self.rank, self.world_size = (distributed.get_rank(), distributed.get_world_size()) if joined else (0, 1)
        several = f"{self.world_size} ranks" if self.world_size > 1 else "1 process"
        self.description = f"plain PyTorch, {several} on {device.type}"
        self.model = model.to(device)
        if device.type == "cpu":
            keep_freed_memory()
            if not training.compile:
                draw_dropout_fast(self.model)
        self._accumulation = accumulation
        self._clip_norm = optimizer.clip_norm
        groups = parameter_groups(self.model, optimizer)
        self._trained: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        name_of = {parameter: name for name, parameter in self.model.named_parameters()}
        self._names = [name_of[parameter] for parameter in self._trained]
        self._masters = self._trained
        self._scale = LossScale() if training.precision == "fp16" else None
        if training.precision in ("bf16", "fp16"):
            self._masters = [nn.Parameter(p.detach().clone()) for p in self._trained]
            for parameter in self.model.parameters():  # buffers, such as rotary frequencies, keep their precision
                parameter.data = parameter.data.to(DTYPES[training.precision])
            masters = iter(self._masters)
            groups = [{**group, "params": [next(masters) for _ in group["params"]]} for group in groups]
        master_of = dict(zip(map(id, self._trained), self._masters, strict=True))
        self._clipped = [[master_of[id(p)] for p in together] for together in self.model.clipped_together]
        self._optimizer = build_optimizer(groups, optimizer, training.precision)
        if training.compile:
            from megamini.training.engines.compiled import compile_layers  # seconds of imports, for those who want it

            compile_layers(self.model, device)
        self.model.train()

    def forward_backward(self, batch: Batch) -> torch.Tensor:
        loss, losses = self.model(batch.input_ids, batch.positions, batch.labels, weights=batch.weights)
        (loss * self._factor / self._accumulation).backward()
        if self._masters is not self._trained:
            self._accumulate_in_fp32()
        return losses.mean(1)

    @property
    def _factor(self) -> float:
        """Of the loss, while its gradients are in fp16."""
        return self._scale.value if self._scale else 1.0

    def step(self, learning_rate: float) -> StepResult:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._average_over_ranks()
        norms = torch.stack([self._norm(group) for group in self._clipped])
        values = norms.tolist()  # the one host read of an update
        finite = [math.isfinite(value) for value in values]
        for group, norm, good in zip(self._clipped, norms, finite, strict=True):
            if not good:  # these stay as they are, the others move as they would alone
                for master in group:
                    master.grad = None
            elif self._clip_norm and any(master.grad is not None for master in group):
                nn.utils.clip_grads_with_norm_(group, self._clip_norm, norm)
        if any(finite):
            self._optimizer.step()
            self._copy_masters_to_model()
        if self._scale:
            self._scale.look(all(finite))
        self._optimizer.zero_grad()
        return StepResult(all(finite), math.hypot(*values))

    def _average_over_ranks(self) -> None:
        """Gradients as one process would have them. *All ranks*, each with gradients of the same parameters."""
        gradients = [master.grad for master in self._masters if master.grad is not None]
        for gradient in gradients if self.world_size > 1 else ():
            distributed.all_reduce(gradient)
        if gradients and (divisor := self._factor * self.world_size) != 1:
            torch._foreach_mul_(gradients, 1 / divisor)

    def _norm(self, group: list[nn.Parameter]) -> torch.Tensor:
        """Norm of the gradients of parameters that are clipped together; 0, on the device too, where they rest."""
        gradients = [master.grad for master in group if master.grad is not None]
        return nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=self.device)

    def evaluate(self, batch: Batch) -> torch.Tensor:
        self.model.eval()
        with torch.no_grad():
            _, losses = self.model(batch.input_ids, batch.positions, batch.labels, batch.attention_mask)
        self.model.train()
        return losses

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        if self.world_size > 1:
            distributed.all_reduce(values)
        return values

    def gather_objects(self, value: Any) -> list[Any]:
        return gather_objects(value) if self.world_size > 1 else [value]

    def replace_token_matrices(self, matrices: Sequence[torch.Tensor]) -> None:
        group = self._optimizer.param_groups[TOKEN_GROUP]["params"]
        for master, matrix in zip(group, matrices, strict=True):
            with torch.no_grad():
                master.copy_(matrix)
            forget_moments(self._optimizer, master)
        self._copy_masters_to_model()

    def trained_value(self, parameter: nn.Parameter) -> torch.Tensor:
        """A parameter as the optimizer has it, fp32 on the CPU."""
        for trained, master in zip(self._trained, self._masters, strict=True):
            if trained is parameter:
                return master.detach().cpu().clone()
        return parameter.detach().float().cpu().clone()

    def parts(self) -> Iterator[list[Slice]]:
        if self.rank:  # rank 0 holds the same
            return
        yield [
            Slice(name, 0, tensors_of(master, self._optimizer.state.get(master, {})))
            for name, master in zip(self._names, self._masters, strict=True)
        ]

    def load(self, shards: Shards) -> None:
        for name, master in zip(self._names, self._masters, strict=True):
            load_whole(shards, name, master, self._optimizer)
        self._copy_masters_to_model()

    def scaler_state(self) -> dict[str, float]:
        return self._scale.state() if self._scale else {}

    def set_scaler_state(self, values: dict[str, float]) -> None:
        if self._scale:
            self._scale.restore(values)

    def _accumulate_in_fp32(self) -> None:
        for master, parameter in zip(self._masters, self._trained, strict=True):
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    @torch.no_grad()
    def _copy_masters_to_model(self) -> None:
        if self._masters is not self._trained:
            torch._foreach_copy_(self._trained, self._masters)

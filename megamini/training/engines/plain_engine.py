"""The plain PyTorch engine: one process on one GPU or the CPU, without DeepSpeed."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from megamini.data.batches import Batch
from megamini.library_internals import check_internals
from megamini.models.cpu_dropout import draw_dropout_fast
from megamini.models.trained_model import TrainedModel
from megamini.recipes.sections import OptimizerSection, TrainingSection
from megamini.training.engines.allocator import keep_freed_memory
from megamini.training.engines.engine import StepResult
from megamini.training.optimizers.optimizer import TOKEN_GROUP, build_optimizer, forget_moments, parameter_groups
from megamini.training.state.shards import Shards, Slice
from megamini.training.state.shards_of_optimizer import load_whole, tensors_of

check_internals(__name__)


class PlainEngine:
    """A single process of plain PyTorch, on one GPU or the CPU.

    With bf16, weights and activations are bf16, and the optimizer moves fp32 master copies with fp32 gradients. What
    does not train gets no gradient, no master and no optimizer state, and is not saved.
    """

    rank = 0
    world_size = 1
    states_on_disk = False

    def __init__(
        self,
        model: TrainedModel,
        optimizer: OptimizerSection,
        training: TrainingSection,
        accumulation: int,
        device: torch.device,
    ) -> None:
        self.device = device
        self.description = f"plain PyTorch, 1 process on {device.type}"
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
        if training.precision == "bf16":
            self._masters = [nn.Parameter(p.detach().clone()) for p in self._trained]
            for parameter in self.model.parameters():  # buffers, such as rotary frequencies, keep their precision
                parameter.data = parameter.data.to(torch.bfloat16)
            masters = iter(self._masters)
            groups = [{**group, "params": [next(masters) for _ in group["params"]]} for group in groups]
        master_of = dict(zip(map(id, self._trained), self._masters, strict=True))
        self._clipped = [[master_of[id(p)] for p in together] for together in self.model.clipped_together]
        self._optimizer = build_optimizer(groups, optimizer, training.precision)
        self._forward = torch.compile(self.model) if training.compile else self.model
        self.model.train()

    def forward_backward(self, batch: Batch) -> torch.Tensor:
        loss, losses = self._forward(batch.input_ids, batch.positions, batch.labels)
        (loss / self._accumulation).backward()
        if self._masters is not self._trained:
            self._accumulate_in_fp32()
        return losses.mean(1)

    def step(self, learning_rate: float) -> StepResult:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
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
        self._optimizer.zero_grad()
        return StepResult(all(finite), math.hypot(*values))

    def _norm(self, group: list[nn.Parameter]) -> torch.Tensor:
        """Norm of the gradients of parameters that are clipped together; 0, on the device too, where they rest."""
        gradients = [master.grad for master in group if master.grad is not None]
        return nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=self.device)

    def evaluate(self, batch: Batch) -> torch.Tensor:
        self.model.eval()
        with torch.no_grad():
            _, losses = self._forward(batch.input_ids, batch.positions, batch.labels, batch.attention_mask)
        self.model.train()
        return losses

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]

    def replace_token_embeddings(self, matrix: torch.Tensor) -> None:
        master = self._masters[TOKEN_GROUP]
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
        yield [
            Slice(name, 0, tensors_of(master, self._optimizer.state.get(master, {})))
            for name, master in zip(self._names, self._masters, strict=True)
        ]

    def load(self, shards: Shards) -> None:
        for name, master in zip(self._names, self._masters, strict=True):
            load_whole(shards, name, master, self._optimizer)
        self._copy_masters_to_model()

    def scaler_state(self) -> dict[str, float]:
        return {}

    def set_scaler_state(self, values: dict[str, float]) -> None:
        pass  # no fp16 in a single process

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

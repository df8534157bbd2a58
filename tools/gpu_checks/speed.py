"""Tokens a second, utilisation and peak memory of whole updates, the library's Trainer and the plan beside."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForMaskedLM

from megamini.adaptation.relearning.model import RelearnModel
from megamini.costs.flops import (
    BodyShape,
    ExitShape,
    activation_memory,
    measured_matmul_rate,
    model_flops_utilisation,
    model_states,
    parameter_counts,
    peak_rate,
    trainable_parameters,
    training_flops,
)
from megamini.data.batches import Batch
from megamini.machine import best_device, device_memory
from megamini.models.primary_model import PrimaryModel
from megamini.recipes.objective import MaskingSection
from megamini.recipes.optimizer import OptimizerSection
from megamini.recipes.sections import TrainingSection
from megamini.training.engines.engine import DTYPES
from megamini.training.engines.plain_engine import PlainEngine
from tools.benchmarks.updates import roberta_config
from tools.gpu_checks.context import Context


@dataclass(frozen=True)
class Sizes:
    layers: int
    hidden: int
    vocab: int
    block_length: int
    blocks: int
    """In a micro-batch, which is a whole update here."""
    relearned: tuple[int, ...]

    @property
    def masked(self) -> int:
        return round(0.15 * (self.block_length - 2))

    @property
    def exit(self) -> int:
        return self.relearned[1]

    def config(self, layers: int | None = None) -> Any:
        return roberta_config(self, layers, self.block_length)

    def batch(self) -> Batch:
        """Random tokens: only the shape matters to the time."""
        places = torch.arange(self.masked) * (self.block_length // self.masked) + 1
        return Batch(
            input_ids=torch.randint(5, self.vocab, (self.blocks, self.block_length)),
            positions=(torch.arange(self.blocks)[:, None] * self.block_length + places).flatten(),
            labels=torch.randint(5, self.vocab, (self.blocks * self.masked,)),
        ).to(best_device())


SIZES = {
    "base": Sizes(12, 768, 50_000, 512, 32, (12, 4, 2)),
    "tiny": Sizes(4, 64, 500, 32, 4, (4, 2, 1)),
}


def run(context: Context) -> None:
    sizes, device = SIZES[context.shape], best_device()
    precisions = ("bf16", "fp32") if device.type == "cuda" else ("fp32",)
    context.tell("configuration", True, says=f"{sizes}; dropout 0.1; forward, backward, clipping, AdamW; sdpa")
    for precision in precisions:
        name = torch.cuda.get_device_name() if device.type == "cuda" else ""
        peak = peak_rate(name, precision) or measured_matmul_rate(device, DTYPES[precision])
        context.tell(f"peak rate, {precision}", True, says=f"{peak / 1e12:.3g} TFLOP/s")
        candidates: list[tuple[str, str, int, Callable[[], Callable[[], Any]]]] = [
            (method, method, sizes.layers, partial(_pretraining, sizes, method, precision))
            for method in ("mlm", "minijoint")
        ]
        if device.type == "cuda":  # on a CPU it would measure the compiler
            compiled = partial(_pretraining, sizes, "minijoint", precision, compile=True)
            candidates.append(("minijoint, compiled", "minijoint", sizes.layers, compiled))
        candidates.append(("the library's Trainer", "mlm", sizes.layers, partial(_trainer, sizes, precision)))
        for layers in sizes.relearned:
            label = f"relearning over {layers} layers"
            candidates.append((label, "standard", layers, partial(_relearning, sizes, layers, precision)))
        for label, method, layers, build in candidates:
            if context.left < 8 and context.shape != "tiny":
                context.tell(f"{label}, {precision} and what follows", True, says="not reached: no time left")
                return
            _measure(context, sizes, label, method, layers, precision, peak, build)


def _measure(
    context: Context, sizes: Sizes, label: str, method: str, layers: int, precision: str, peak: float, build: Callable
) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = _seconds(build(), 10 if on_gpu else 3)
    except Exception as error:  # such as too little memory: the next is to be measured all the same
        context.tell(f"{label}, {precision}", False, says=f"{type(error).__name__}: {str(error)[:200]}")
        return
    shape = BodyShape.from_config(sizes.config(layers), "sdpa")
    exits = (ExitShape(sizes.exit),) if method == "minijoint" else ()
    flops = sizes.blocks * training_flops(shape, sizes.block_length, sizes.masked, method, exits)
    share = model_flops_utilisation(flops / seconds, peak)
    trained = trainable_parameters(shape, method, exits)
    frozen = sum(parameter_counts(shape, method, exits).values()) - trained
    planned = activation_memory(
        shape, sizes.block_length, sizes.blocks, sizes.masked, method, exits, precision,
        workspace_bytes=MaskingSection().loss_workspace_bytes(device_memory()),
    ).total + model_states(trained, frozen, precision, 0, 1, True).total  # fmt: skip
    tokens = sizes.blocks * sizes.block_length
    context.tell(
        f"{label}, {precision}", True,
        ms=f"{1e3 * seconds:.1f}",
        tokens_per_second=f"{tokens / seconds:,.0f}",
        planned_at_40_percent=f"{0.4 * peak / flops * tokens:,.0f}",
        MFU="unknown" if share is None else f"{share:.1%}",
        peak_GB=f"{torch.cuda.max_memory_allocated() / 1e9:.2f}" if on_gpu else "",
        planned_GB="" if "Trainer" in label else f"{planned / 1e9:.2f}",
    )  # fmt: skip


def _seconds(update: Callable[[], Any], count: int) -> float:
    """Median of `count` updates, behind three."""
    times = []
    for _ in range(count + 3):
        started = time.perf_counter()
        update()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[3:])


def _pretraining(sizes: Sizes, method: str, precision: str, compile: bool = False) -> Callable[[], None]:
    exits = [sizes.exit] if method == "minijoint" else []
    workspace = MaskingSection().loss_workspace_bytes(device_memory())
    model = PrimaryModel(AutoModelForMaskedLM.from_config(sizes.config()), exits, workspace_bytes=workspace)
    return _update(sizes, model, precision, compile)


def _relearning(sizes: Sizes, layers: int, precision: str) -> Callable[[], None]:
    body = AutoModelForMaskedLM.from_config(sizes.config(layers))
    start = torch.randn(sizes.vocab, sizes.hidden) * 0.02, torch.zeros(sizes.vocab)
    workspace = MaskingSection().loss_workspace_bytes(device_memory())
    return _update(sizes, RelearnModel(body, {"xx": start}, workspace_bytes=workspace), precision)


def _update(sizes: Sizes, model: torch.nn.Module, precision: str, compile: bool = False) -> Callable[[], None]:
    batch_of = {"global_batch": sizes.blocks, "micro_batch": sizes.blocks}
    training = TrainingSection(**batch_of, precision=precision, compile=compile)
    engine = PlainEngine(model, OptimizerSection(learning_rate=1e-4), training, 1, best_device())
    batch = sizes.batch()

    def update() -> None:
        engine.forward_backward(batch)
        engine.step(1e-4)

    return update


def _trainer(sizes: Sizes, precision: str) -> Callable[[], None]:
    from tools.benchmarks.pretraining import trainer_update

    return trainer_update(sizes.config(), sizes.batch(), precision, use_cpu=not torch.cuda.is_available())

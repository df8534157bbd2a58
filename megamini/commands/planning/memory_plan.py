"""Bytes of one GPU by part, for every ZeRO stage, and the least sharding that fits."""

from dataclasses import dataclass
from typing import Any

from megamini.commands.planning.clusters import Cluster
from megamini.commands.planning.subject import Subject
from megamini.costs.flops import activation_memory, model_states
from megamini.data.batches import plan_batches
from megamini.errors import UserError
from megamini.training.optimizers.matrix_exchange import MOST_ELEMENTS

# In elements, as ds_configs/ has them; a plan's JSON sets them no larger than the model needs. Buckets of reduce and
# all-gather, and for stage 3 what is fetched ahead of the layer that runs, and what may be whole at a time: DeepSpeed
# 0.19.8's default there (runtime/zero/config.py), which a large token matrix alone may fill.
_BUCKET = 200_000_000
_PREFETCH = 50_000_000
_MOST_LIVE = 1_000_000_000


@dataclass(frozen=True)
class Layout:
    """How a run is spread. stage: ZeRO's, 0 to 3. offload: optimizer and weights in the host's memory."""

    stage: int
    offload: bool
    checkpointing: bool
    micro_batch: int
    accumulation: int

    @property
    def name(self) -> str:
        more = [" + offload" * self.offload, " + activation checkpointing" * self.checkpointing]
        return f"ZeRO-{self.stage}{''.join(more)}"


@dataclass(frozen=True)
class Bytes:
    """On one GPU. host: beside it, per GPU, in the host's memory. building: there too, before training begins."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    loss: float
    buffers: float
    host: float = 0.0
    building: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss + self.buffers


def bucket_of(subject: Subject) -> int:
    """Elements of a bucket of gradients: DeepSpeed's default, or the whole model where that is smaller."""
    return min(_BUCKET, subject.trainable)


def live_at_stage_3(subject: Subject) -> int:
    """Elements that a rank may have whole at once: beside the largest part, what is fetched ahead of a layer."""
    return max(_MOST_LIVE, subject.largest_part + _MOST_LIVE // 4)


def bytes_of(subject: Subject, cluster: Cluster, layout: Layout) -> Bytes:
    """Model states by ZeRO (Rajbhandari et al. 2020), activations by Korthikanti et al. 2022 (`megamini.costs.memory`),
    and DeepSpeed's buffers: two buckets to reduce, one while the other is on its way, at stage 1 in fp32 as the sums
    are; at stage 3 what may be whole at a time, and the gradient of the largest layer or token matrix. building: as
    `models.build` does it, in fp32, the whole model below stage 3 and its largest part there."""
    training = subject.recipe.training
    width = 4 if training.precision in ("fp32", "tf32") else 2
    frozen = sum(subject.parameters.values()) - subject.trainable
    fp32_gradients = training.precision == "bf16"
    states = model_states(
        subject.trainable,
        frozen,
        training.precision,
        layout.stage,
        cluster.gpus,
        fp32_gradients=fp32_gradients,
        muon=subject.muon_parameters,
    )
    activations = activation_memory(
        subject.shape, subject.block_length, layout.micro_batch, subject.mask_schedule.most_masked, subject.method,
        subject.exits, training.precision, layout.checkpointing,
        workspace_bytes=subject.recipe.objective.loss_workspace_bytes(cluster.gpu.memory),
    )  # fmt: skip
    in_bucket = 4 if layout.stage == 1 and fp32_gradients else width
    buffers = 0 if cluster.gpus == 1 or layout.stage == 0 else 2 * bucket_of(subject) * in_bucket
    total = sum(subject.parameters.values())
    if layout.stage == 3:
        buffers += (min(live_at_stage_3(subject), total) + subject.largest_part) * width
    buffers += _muon_buffers(subject, cluster)
    host = states.optimizer + states.weights if layout.offload else 0.0
    return Bytes(
        weights=0.0 if layout.offload else states.weights,
        gradients=states.gradients,
        optimizer=0.0 if layout.offload else states.optimizer,
        activations=activations.layers + activations.heads,
        loss=activations.loss,
        buffers=buffers,
        host=host,
        building=4 * (subject.largest_part if layout.stage == 3 else total),
    )


def _muon_buffers(subject: Subject, cluster: Cluster) -> int:
    """Bytes while Muon moves matrices: what a rank sends and takes on at once (`training.optimizers.matrix_exchange`),
    and about four times the largest matrix, as measured, in which the iteration works."""
    largest = subject.largest_matrix
    exchanged = min(MOST_ELEMENTS, max(largest, subject.muon_parameters // cluster.gpus)) if cluster.gpus > 1 else 0
    return 4 * (2 * max(exchanged, largest) + 4 * largest)


def layouts(subject: Subject, cluster: Cluster) -> list[Layout]:
    """From the least sharding to the most; each with the largest micro-batch that fits, at most the recipe's."""
    found = []
    stages = [(0, False)] if cluster.gpus == 1 else []
    stages += [(stage, False) for stage in (1, 2, 3)] if cluster.gpus > 1 else []
    for stage, offload in [*stages, (3, True)]:
        for checkpointing in (False, True):
            found.append(_with_largest_micro_batch(subject, cluster, stage, offload, checkpointing))
    return found


def _with_largest_micro_batch(
    subject: Subject, cluster: Cluster, stage: int, offload: bool, checkpointing: bool
) -> Layout:
    training = subject.recipe.training
    largest = min(training.micro_batch, training.global_batch // cluster.gpus or 1)
    while True:
        plan = plan_batches(training.global_batch, largest, cluster.gpus)
        layout = Layout(stage, offload, checkpointing, plan.micro_batch, plan.accumulation)
        if plan.micro_batch == 1 or bytes_of(subject, cluster, layout).total <= cluster.budget:
            return layout
        largest = plan.micro_batch - 1


def smallest_that_fits(subject: Subject, cluster: Cluster) -> Layout:
    """The first of `layouts` within the budget. Raises UserError where none is."""
    every = layouts(subject, cluster)
    for layout in every:
        if bytes_of(subject, cluster, layout).total <= cluster.budget:
            return layout
    least = min(bytes_of(subject, cluster, layout).total for layout in every)
    raise UserError(
        f"{subject.recipe.name}: no layout fits {cluster.gpus} GPUs of {cluster.gpu.memory / 1e9:.0f} GB: at least "
        f"{least / 1e9:.0f} GB each are needed; give more GPUs, or a smaller objective.loss_workspace_mib"
    )


def deepspeed_json(subject: Subject, layout: Layout) -> dict[str, Any]:
    """A configuration for `--deepspeed_config` that holds what the layout says."""
    zero: dict[str, Any] = {"stage": layout.stage}
    if layout.stage:
        zero |= {"overlap_comm": True, "contiguous_gradients": True, "reduce_bucket_size": bucket_of(subject)}
    if layout.stage in (1, 2):
        zero["allgather_bucket_size"] = bucket_of(subject)
    if layout.stage == 3:
        zero["stage3_prefetch_bucket_size"] = min(_PREFETCH, sum(subject.parameters.values()))
        if (live := live_at_stage_3(subject)) > _MOST_LIVE:
            zero["stage3_max_live_parameters"] = live
    if layout.offload:
        zero |= {f"offload_{what}": {"device": "cpu", "pin_memory": True} for what in ("optimizer", "param")}
    return {"zero_optimization": zero}

"""Bytes that training needs: model states per rank under ZeRO, activations of a micro-batch, a checkpoint on disk.

For planning: what allocators, communication buffers and CUDA itself take comes on top.
"""

from dataclasses import dataclass
from typing import Literal

from megamini.costs.shape import OVER_FROZEN, BodyShape, ExitShape, Method, layer_matrices, only_exit

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

_MASTER_BYTES = 4
_MOMENT_BYTES = 4  # fp32; Adam has two for each parameter, Muon one


@dataclass(frozen=True)
class ModelStates:
    """Bytes on one rank."""

    weights: int
    gradients: int
    optimizer: int
    """Moments, and the fp32 master weights where there are any."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


def model_states(
    trainable: int,
    frozen: int,
    precision: Precision,
    stage: int,
    ranks: int,
    fp32_gradients: bool = False,
    muon: int = 0,
) -> ModelStates:
    """Weights, gradients and optimizer of `trainable` parameters, and the weights of `frozen` ones, on each of `ranks`.

    Rajbhandari et al. 2020 (ZeRO, sections 3.1 and 5): mixed precision holds 2 + 2 + 12 bytes per parameter (weights,
    gradients; fp32 master and Adam's moments); stage 1 partitions the optimizer, 2 the gradients too, 3 the weights
    too. In fp32 stage 0 has no master, nor has a single process without DeepSpeed: 4 + 4 + 8; from stage 1 on DeepSpeed
    0.19.8 keeps one of fp32 weights too. Autocast over fp32 weights holds what fp32 does.

    `fp32_gradients`: micro-batches in bf16 are summed in fp32 (`data_types.grad_accum_dtype`);
    gradients then take 4 bytes, and the low-precision ones that backward makes are taken as released at once.

    `muon`: how many of the trainable parameters Muon moves, whose one momentum takes 4 bytes instead of Adam's 8.
    """
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"ZeRO stage {stage}: stages are 0 to 3")
    width = _bytes_per_weight(precision)
    masters = trainable * _MASTER_BYTES if width < 4 or stage >= 1 else 0
    optimizer = masters + _MOMENT_BYTES * (2 * trainable - muon)
    gradients = trainable * (4 if fp32_gradients else width)
    weights = (trainable + frozen) * width
    return ModelStates(
        weights=_share(weights, ranks if stage >= 3 else 1),
        gradients=_share(gradients, ranks if stage >= 2 else 1),
        optimizer=_share(optimizer, ranks if stage >= 1 else 1),
    )


def checkpoint_bytes(trainable: int, muon: int = 0) -> int:
    """Bytes of one checkpoint, all ranks' files together: fp32 weights and moments, whatever the precision and the
    stage (`training.state.shards`). muon: how many of the parameters Muon moves, with one moment instead of two."""
    return trainable * _MASTER_BYTES + _MOMENT_BYTES * (2 * trainable - muon)


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes on one rank for one micro-batch."""

    layers: int
    """Kept from forward to backward: every layer's, or with checkpointing the layers' inputs and one layer whole."""
    heads: int
    """Rows at masked positions inside the heads' transforms, and their gradients."""
    loss: int
    """One chunk of logits and probabilities, and the gradient of the tied matrix as the loss sums it."""

    @property
    def total(self) -> int:
        return self.layers + self.heads + self.loss


def activation_memory(
    shape: BodyShape,
    block_length: int,
    micro_batch: int,
    masked: int,
    method: Method = "mlm",
    exits: tuple[ExitShape, ...] = (),
    precision: Precision = "bf16",
    checkpointing: bool = False,
    dropout: bool = True,
    workspace_bytes: int = 256 * 2**20,
) -> ActivationMemory:
    """Activations of `micro_batch` blocks with `masked` masked positions each, computed in `precision`.

    Korthikanti et al. 2022 (section 4.1), without the maps of S x S that sdpa and flash attention never keep, for any
    feed-forward width, gated or not. A frozen matrix needs no copy of its input; a low-rank update beside it does.
    MiniPost's layers below the bridge
    keep nothing. With checkpointing (section 5) only the layers' inputs stay, and one layer at a time is
    computed again. The loss is that of `models.joint_loss`, which works in `workspace_bytes`.
    """
    width = _bytes_per_weight(precision)
    tokens = block_length * micro_batch
    per_token = _layer_bytes_per_token(shape, width, dropout, frozen=method in OVER_FROZEN)
    # sdpa makes an additive mask of its own in each sliding layer, a row of the block's length for each token.
    mask = 0 if shape.skips_outside_span else block_length * width
    kept = _kept_layers(shape, method, exits)
    whole = [tokens * (per_token + (0 if shape.span(layer) is None else mask)) for layer in kept]
    layers = len(kept) * tokens * shape.hidden * width + max(whole, default=0) if checkpointing else sum(whole)

    head_count = 1 + len(exits) if method == "minijoint" else 1
    rows = masked * micro_batch * head_count
    # A chunk has logits, and fp32 ones beside low-precision ones; the matrix's gradient is summed in fp32, then cast.
    per_logit = 4 if width == 4 else 4 + width
    per_weight = 0 if method in ("minipost", "head") else 4 + (width if width < 4 else 0)
    return ActivationMemory(
        layers=layers,
        # Selected states, dense output, activation and norm output; then the rows' gradient, kept for backward.
        heads=rows * shape.hidden * 5 * width,
        loss=min(workspace_bytes, rows * shape.vocab * per_logit) + shape.vocab * shape.hidden * per_weight,
    )


def _kept_layers(shape: BodyShape, method: Method, exits: tuple[ExitShape, ...]) -> list[int]:
    """Layers whose activations wait for backward; bridge layers under the numbers they stand in for."""
    bridges = [layer for exit_shape in exits for layer in exit_shape.bridge]
    if method == "head":
        return []
    if method == "minipost":
        return bridges
    if method == "mini":
        return list(range(only_exit(exits).depth))
    return [*range(shape.layers), *bridges]


def _layer_bytes_per_token(shape: BodyShape, width: int, dropout: bool, frozen: bool) -> int:
    """What one layer keeps for each token, in bytes; 34 x hidden in RoBERTa at 16 bits, trained, with dropout."""
    hidden, ffn = shape.hidden, shape.ffn
    queries, keys = shape.query_width, shape.key_width
    # sdpa keeps queries, keys, values and its output (the output matrix takes that too), and fp32 log-sums per head.
    attention = 2 * (queries + keys) * width + 4 * shape.heads
    # A norm in steps keeps its input in fp32, and what its weight scales.
    of_norm = (4 + (0 if frozen else width)) if shape.rms_norm else width
    norm_inputs = (1 if shape.parallel_layers else 2) * hidden * of_norm
    head_norms = (queries + keys) * of_norm * shape.head_norms
    # The activation's input; a gate also keeps both factors of its product.
    feed_forward = (3 if shape.gated_ffn else 1) * ffn * width
    # Inputs of the matrices: attention's, the first of the feed-forward network, the last one's. Heads that lie one
    # behind the other are put side by side, in a copy, for the output matrix.
    unread = frozen and not shape.lora_rank
    matrix_inputs = 0 if unread else (2 * hidden + ffn + queries * shape.interleaved_heads) * width
    between_factors = shape.lora_rank * len(layer_matrices(shape)) * width
    # Rotary positions make new queries and keys; the old ones stay, in one tensor with the values.
    unrotated = (queries + keys) * width if shape.fused_attention else 0
    masks = 2 * hidden if dropout and shape.drops_states else 0
    return attention + norm_inputs + head_norms + feed_forward + matrix_inputs + between_factors + unrotated + masks


def _bytes_per_weight(precision: Precision) -> int:
    return {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}[precision]


def _share(count: int, ranks: int) -> int:
    """One rank's part, the last one padded up."""
    return -(-count // ranks)

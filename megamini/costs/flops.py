"""What training costs: FLOPs by formula, peak rates, model-FLOPs utilisation. `memory` has the bytes.

One multiply-add is 2 FLOPs, and only matrix products count, as Kaplan et al. 2020 (section 2.1) and Chowdhery et al.
2022 (PaLM, appendix B) do it: norms, softmax, activations, gathers and AdamW are left out. These are *model*
FLOPs, those the mathematics needs: what activation checkpointing or flash attention compute twice counts once. Muon's
matrix products are no small matter where few tokens make an update, and are counted apart (`muon_flops`).
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megamini.costs.memory import (
    ActivationMemory,
    ModelStates,
    activation_memory,
    checkpoint_bytes,
    model_states,
)
from megamini.costs.shape import (
    BodyShape,
    ExitShape,
    Method,
    built_parameters,
    built_shape,
    hidden_matrices,
    largest_part,
    layer_matrices,
    matrix_parameters,
    only_exit,
    parameter_counts,
    trainable_parameters,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "PEAK_TFLOPS",
    "ActivationMemory",
    "BodyShape",
    "ExitShape",
    "Method",
    "ModelStates",
    "activation_memory",
    "body_forward_flops",
    "built_parameters",
    "built_shape",
    "checkpoint_bytes",
    "head_forward_flops",
    "hidden_matrices",
    "largest_part",
    "matrix_parameters",
    "measured_matmul_rate",
    "model_flops_utilisation",
    "model_states",
    "muon_flops",
    "muon_flops_of_a_rank",
    "newton_schulz_flops",
    "parameter_counts",
    "peak_rate",
    "trainable_parameters",
    "training_flops",
]


_BURSTS = 3  # of a measurement


@dataclass(frozen=True)
class _Passes:
    """How often the forward's FLOPs are spent, over forward and backward.

    A product with a weight matrix costs one forward for the gradient of its input and one for the gradient of the
    weight. The two products inside attention have activations on both sides: their backward costs two forwards even
    where all weights are frozen.
    """

    dense: int
    attention: int


_TRAINED = _Passes(dense=3, attention=3)
_CROSSED = _Passes(dense=2, attention=3)  # frozen, with gradients going through to something below
_FORWARD = _Passes(dense=1, attention=1)


def body_forward_flops(shape: BodyShape, block_length: int) -> int:
    """FLOPs of the body's forward pass on one block of `block_length` tokens.

    Narayanan et al. 2021 (Megatron-LM, appendix): 2 x tokens x weights for the dense products, and
    4 x tokens x keys x hidden for the scores and their product with the values.
    """
    return _layers_flops(shape, block_length, range(shape.layers), _FORWARD)


def head_forward_flops(shape: BodyShape, masked: int) -> int:
    """FLOPs of one head at `masked` rows: the dense transform (d x d), if it has one, and the projection (V x d)."""
    return _transform_flops(shape, masked) + _projection_flops(shape, masked)


def training_flops(
    shape: BodyShape, block_length: int, masked: int, method: Method, exits: tuple[ExitShape, ...] = ()
) -> int:
    """FLOPs of forward and backward on one block of `block_length` tokens with `masked` masked positions.

    mlm, causal, minijoint: everything trains, so three forwards; each exit adds its bridge layers and a whole head.
    minipost: the layers below the exit run forward only (frozen, and nothing below them trains), the bridge trains,
    the frozen head passes the gradient through; the layers above are not run.
    head: the body runs forward only; the transform forms the gradient of its weights alone, the projection that of its
    input alone.
    standard, mini, embeddings: frozen layers and transform pass the gradient through to the embeddings; in the head,
    only the tied matrix gets a gradient of its own. That of the embedding's look-up is a scatter, not a product.
    lora: as those, and the low-rank factors beside each matrix of a layer train (Hu et al. 2021).
    """
    if method in ("mlm", "causal", "minijoint"):
        heads = 1 + len(exits)
        trained = [*range(shape.layers), *(index for exit_shape in exits for index in exit_shape.bridge)]
        layers = _layers_flops(shape, block_length, trained, _TRAINED)
        return layers + 3 * heads * head_forward_flops(shape, masked)
    if method == "minipost":
        return _minipost_flops(shape, block_length, masked, exits)
    if method == "head":
        return body_forward_flops(shape, block_length) + 2 * head_forward_flops(shape, masked)
    body = shape.mini(only_exit(exits)) if method == "mini" else shape
    layers = _layers_flops(body, block_length, range(body.layers), _CROSSED)
    factors = body.layers * body.lora_rank * sum(sum(size) for size in layer_matrices(body))
    layers += _TRAINED.dense * 2 * block_length * factors
    return layers + 2 * _transform_flops(body, masked) + 3 * _projection_flops(body, masked)


def _minipost_flops(shape: BodyShape, block_length: int, masked: int, exits: tuple[ExitShape, ...]) -> int:
    exit_shape = only_exit(exits)
    lower = _layers_flops(shape, block_length, range(exit_shape.layer), _FORWARD)
    bridge = _layers_flops(shape, block_length, exit_shape.bridge, _TRAINED)
    if not shape.pre_norm:
        # Nothing below wants a gradient, so the first bridge layer's query, key and value matrices form none for their
        # input. In a pre-norm layer they do: its own trainable norm lies before them.
        bridge -= 2 * block_length * 3 * shape.hidden**2
    return lower + bridge + 2 * head_forward_flops(shape, masked)


def newton_schulz_flops(rows: int, columns: int, steps: int) -> int:
    """FLOPs of orthogonalising one matrix (`training.optimizers.muon`): in each step, for m the smaller side and n the
    larger, the m x m Gram matrix (2 m m n), its square (2 m m m) and their product with the matrix (2 m m n)."""
    m, n = sorted((rows, columns))
    return steps * 2 * m * m * (2 * n + m)


def muon_flops(shape: BodyShape, method: Method, exits: tuple[ExitShape, ...], steps: int) -> int:
    """FLOPs of one update of Muon, over all ranks: `steps` of the iteration for each matrix that it moves.

    Beside the update's own, at most steps x (smaller side of a matrix) / (tokens of an update) of what its matrices
    cost (Jordan et al. 2024): the fewer tokens, the more it weighs.
    """
    counts = hidden_matrices(shape, method, exits)
    return sum(count * newton_schulz_flops(*size, steps) for size, count in counts.items())


def muon_flops_of_a_rank(
    shape: BodyShape, method: Method, exits: tuple[ExitShape, ...], steps: int, ranks: int
) -> float:
    """Of the rank with the most of them: an even share, or one matrix where these are fewer than ranks.

    So from ZeRO stage 1 on; at stage 0 every rank does all.
    """
    counts = hidden_matrices(shape, method, exits)
    largest = max((newton_schulz_flops(*size, steps) for size in counts), default=0)
    return max(largest, muon_flops(shape, method, exits, steps) / ranks)


def _layers_flops(shape: BodyShape, block_length: int, layers: Iterable[int], passes: _Passes) -> int:
    feed_forward = (3 if shape.gated_ffn else 2) * shape.hidden * shape.ffn
    projections = 2 * shape.hidden * (shape.query_width + shape.key_width)
    dense = 2 * block_length * (projections + feed_forward)
    attention = (4 * _attended(shape, block_length, layer) * shape.query_width for layer in layers)
    return sum(passes.dense * dense + passes.attention * flops for flops in attention)


def _attended(shape: BodyShape, block_length: int, layer: int) -> int:
    """Pairs of query and key that the layer's attention computes in one block."""
    span = shape.span(layer)
    if span is None or span >= block_length or not shape.skips_outside_span:
        return block_length**2
    if shape.causal:  # each token sees itself and those before it, `span` in all
        return block_length * span - span * (span - 1) // 2
    # Each token sees 2 span + 1 tokens, less what falls off the block's two ends.
    return block_length * (2 * span + 1) - span * (span + 1)


def _transform_flops(shape: BodyShape, masked: int) -> int:
    return 2 * masked * shape.hidden**2 * shape.transform


def _projection_flops(shape: BodyShape, masked: int) -> int:
    return 2 * masked * shape.hidden * shape.vocab


PEAK_TFLOPS: dict[str, dict[str, float]] = {
    # NVIDIA V100 datasheet (2020): tensor cores take fp16 only.
    "V100-SXM2": {"fp16": 125.0, "fp32": 15.7},
    "V100-PCIE": {"fp16": 112.0, "fp32": 14.0},
    # NVIDIA T4 datasheet (2019).
    "T4": {"fp16": 65.0, "fp32": 8.1},
    # NVIDIA A100 datasheet (2021), all form factors.
    "A100": {"bf16": 312.0, "fp16": 312.0, "tf32": 156.0, "fp32": 19.5},
    # NVIDIA A10G: as on AWS's G5 instances (2021).
    "A10G": {"bf16": 70.0, "fp16": 70.0, "tf32": 35.0, "fp32": 31.5},
    # NVIDIA Ampere GA102 whitepaper (2021), half precision summed in fp32, as PyTorch does.
    "RTX 3090": {"bf16": 71.0, "fp16": 71.0, "tf32": 35.6, "fp32": 35.6},
    # NVIDIA Ada whitepaper (2022), half precision summed in fp32.
    "RTX 4090": {"bf16": 165.2, "fp16": 165.2, "tf32": 82.6, "fp32": 82.6},
    # NVIDIA L4 datasheet (2023).
    "L4": {"bf16": 121.0, "fp16": 121.0, "tf32": 60.0, "fp32": 30.3},
    # NVIDIA L40S datasheet (2023).
    "L40S": {"bf16": 362.05, "fp16": 362.05, "tf32": 183.0, "fp32": 91.6},
    # NVIDIA H100 datasheet (2023): SXM calls itself "H100 80GB HBM3".
    "H100 PCIe": {"bf16": 756.5, "fp16": 756.5, "tf32": 378.0, "fp32": 51.0},
    "H100 80GB HBM3": {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 67.0},
    # NVIDIA H200 datasheet (2024), SXM.
    "H200": {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 67.0},
    # AMD Instinct MI250X datasheet (2021), halved: PyTorch sees each of the two dies as a device. fp32 by matrix cores.
    "MI250X": {"bf16": 191.5, "fp16": 191.5, "fp32": 47.9},
    # AMD Instinct MI300X datasheet (2023).
    "MI300X": {"bf16": 1307.4, "fp16": 1307.4, "tf32": 653.7, "fp32": 163.4},
}
"""Dense peak (no sparsity) in TFLOP/s by words of `torch.cuda.get_device_name()`, then by precision. `fp32` is with
TF32 off, PyTorch's default; `tf32` is what fp32 matrices reach with `torch.set_float32_matmul_precision("high")`."""

_OTHER_CHIPS = ("MIG", "Laptop", "Ti", "D", "SUPER", "NVL", "Max")  # same name, another rate


def peak_rate(device_name: str, precision: str) -> float | None:
    """Peak in FLOP/s by `PEAK_TFLOPS`, or None for a device or precision without an entry: measure it then."""
    words = re.split(r"[-/ ]+", device_name)
    if any(other in words for other in _OTHER_CHIPS):
        return None
    name = f" {' '.join(words)} "
    for part, rates in PEAK_TFLOPS.items():
        if f" {part.replace('-', ' ')} " in name and precision in rates:
            return rates[precision] * 1e12
    return None


def measured_matmul_rate(
    device: "torch.device | str", dtype: "torch.dtype", sizes: Sequence[int] = (), seconds: float = 0.9
) -> float:
    """FLOP/s of square matrix products, the best of those of `sizes` that fit into about `seconds` (at least two each).

    The yardstick where `PEAK_TFLOPS` has no entry, such as CPUs. Whatever else runs on the machine lowers it, so it is
    measured in bursts that lie apart.
    """
    import torch

    device = torch.device(device)
    sizes = sizes or ((512, 1024, 2048) if device.type == "cpu" else (8192,))
    best = 0.0
    for burst in range(_BURSTS):
        time.sleep(0.05 * bool(burst))
        for size in sizes:
            best = max(best, _matmul_rate(device, dtype, size, seconds / _BURSTS / len(sizes)))
    return best


def _matmul_rate(device: "torch.device", dtype: "torch.dtype", size: int, seconds: float) -> float:
    import torch

    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = left @ right  # warm up: the first call loads and picks kernels
    best = float("inf")
    started = time.perf_counter()
    rounds = 0
    while rounds < 2 or time.perf_counter() - started < seconds:
        _wait_for(device)
        before = time.perf_counter()
        torch.matmul(left, right, out=result)
        _wait_for(device)
        best = min(best, time.perf_counter() - before)
        rounds += 1
    return 2 * size**3 / best


def _wait_for(device: "torch.device") -> None:
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def model_flops_utilisation(flops_per_second: float, peak: float) -> float | None:
    """Model FLOPs per second over the devices' peak in FLOP/s, a share of 1 (Chowdhery et al. 2022, appendix B).

    None where that is above 1: then `peak` is not the peak, as where it was measured on a machine at work.
    """
    share = flops_per_second / peak
    return share if share <= 1 else None

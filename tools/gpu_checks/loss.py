"""The joint loss: the kernel of our own against PyTorch's operations, in value, time and memory; and its traffic."""

import time
from collections.abc import Callable
from unittest import mock

import torch

from megamini.machine import best_device, device_memory
from megamini.models import joint_loss
from megamini.recipes.objective import MaskingSection
from tools.gpu_checks.context import Context

# Rows, pieces, width: base, and the vocabulary of XLM-R.
_SIZES = {"base": ((4864, 50_000, 768), (1216, 250_002, 2560)), "tiny": ((64, 500, 32),)}


def run(context: Context) -> None:
    device = best_device()
    on_gpu = device.type == "cuda"
    if on_gpu:
        context.tell("the kernel runs here", joint_loss.gpu_kernel() is not None)
        context.tell("products are added in fp32", joint_loss.sums_products_in_fp32())
    else:
        context.tell("the kernel", True, says="not run: it needs a GPU")
    for rows, vocab, width in _SIZES[context.shape]:
        for precision in (torch.bfloat16, torch.float32) if on_gpu else (torch.float32,):
            inputs = _inputs(rows, vocab, width, precision, device)
            now = _measured(inputs)
            with mock.patch.object(joint_loss, "gpu_kernel", lambda: None):
                before = _measured(inputs, 256 * 2**20)
            errors = [_error(one, other) for one, other in zip(now[2], before[2], strict=True)]
            allowed = 2e-2 if precision == torch.bfloat16 else 1e-4
            context.tell(
                f"{rows:,} x {vocab:,} x {width:,}, {str(precision).removeprefix('torch.')}",
                max(errors) <= allowed,
                ms=f"{1e3 * now[0]:.2f}",
                ms_before=f"{1e3 * before[0]:.2f}",
                peak_MiB=f"{now[1] / 2**20:,.0f}",
                peak_MiB_before=f"{before[1] / 2**20:,.0f}",
                largest_relative_difference=f"{max(errors):.1e}",
            )
            if context.left < 5 and context.shape != "tiny":
                return


def _inputs(rows: int, vocab: int, width: int, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=draw)
    weight = torch.randn(vocab, width, generator=draw) / width**0.5
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in (x, weight, torch.zeros(vocab))]
    labels = torch.randint(vocab, (rows,), generator=draw).to(device)
    return [*leaves, labels, torch.full((rows,), 1 / rows, device=device)]


def _measured(inputs: list[torch.Tensor], workspace: int | None = None) -> tuple[float, int, list[torch.Tensor]]:
    """Seconds (best of five), bytes above the inputs at the peak, and the gradients of rows, matrix and bias."""
    workspace = workspace or MaskingSection().loss_workspace_bytes(device_memory())
    best, peak = float("inf"), 0
    for _ in range(5):
        for leaf in inputs[:3]:
            leaf.grad = None
        _synchronise(torch.cuda.reset_peak_memory_stats)
        held = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        started = time.perf_counter()
        joint_loss.joint_cross_entropy(*inputs, workspace_bytes=workspace)[0].backward()
        _synchronise()
        best = min(best, time.perf_counter() - started)
        peak = torch.cuda.max_memory_allocated() - held if torch.cuda.is_available() else 0
    return best, peak, [leaf.grad.float().clone() for leaf in inputs[:3]]


def _synchronise(then: Callable[[], None] | None = None) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        if then:
            then()


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()

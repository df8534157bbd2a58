"""The joint loss of all heads: cross-entropy of many rows against one matrix, whose logits never exist whole.

Rows of all heads go through one call. A chunk of rows at a time is projected, its loss summed in fp32, and its
gradients formed at once from the same logits, so nothing is recomputed in the backward pass and the memory is one
chunk's. Chosen by the measurements in `tools/benchmarks/joint_loss.md`. On a GPU the passes over the logits are
one kernel (`softmax_gradient.py`), and the product itself adds to the fp32 gradient of the matrix.
"""

import functools
from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from megamini.machine import is_first_rank


def joint_cross_entropy(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    coefficients: torch.Tensor,
    workspace_bytes: int = 256 * 2**20,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of the rows' cross-entropies, and each row's own.

    rows: [R, d]. weight: [V, d], the tied token matrix. bias: [V] or None. labels: int64 [R]. coefficients: fp32
    [R], the weight of each row in the sum. Returns the loss (fp32 scalar, differentiable in rows, weight and bias)
    and the negative log-likelihoods in nats (fp32 [R], detached). At most about `workspace_bytes` are used beside
    inputs and gradients; low precision adds the fp32 sum of weight's gradient and, on a CPU, an fp32 copy of weight.
    A loss that is not finite makes every gradient not finite, so one look at the gradient norm sees both.
    """
    if rows.device.type == "cpu":
        # Without bf16 instructions a bf16 product takes 3 to 50 times as long as an fp32 one, and is less precise.
        rows, weight, bias = rows.float(), weight.float(), None if bias is None else bias.float()
    kernel = gpu_kernel() if rows.is_cuda and torch.is_grad_enabled() else None
    chunk = _rows_per_chunk(len(rows), len(weight), rows.dtype, workspace_bytes, kernel is not None)
    if torch.is_grad_enabled():
        return _JointCrossEntropy.apply(rows, weight, bias, labels, coefficients, chunk, kernel)
    half = max(1, chunk // 2)  # the library keeps logits and log-probabilities
    losses = torch.cat(
        [
            functional.cross_entropy(functional.linear(r, weight, bias).float(), t, reduction="none")
            for r, t in zip(rows.split(half), labels.split(half), strict=True)
        ]
    )
    return torch.dot(losses, coefficients), losses


@functools.cache
def gpu_kernel() -> Callable[..., None] | None:
    """The fused kernel, tried once on the GPU; None, behind a line that says so, where it does not run."""
    try:
        from megamini.models.softmax_gradient import softmax_gradient_

        logits = torch.zeros(1, 8, device="cuda")
        labels, ones = torch.zeros(1, dtype=torch.int64, device="cuda"), torch.ones(1, device="cuda")
        softmax_gradient_(logits, labels, ones, torch.empty_like(ones))
        if abs(logits[0, 0].item() + 7 / 8) > 1e-5:
            raise RuntimeError(f"a gradient is {logits[0, 0].item()} instead of -0.875")
    except Exception as error:  # no Triton, no compiler for it, a GPU that it does not know
        _warn(f"the joint loss runs without its GPU kernel, more slowly: {error}")
        return None
    return softmax_gradient_


def _rows_per_chunk(rows: int, vocab: int, dtype: torch.dtype, workspace_bytes: int, in_place: bool = False) -> int:
    """Rows whose logits fit the workspace: worked on in place, as in fp32, or low-precision ones and fp32."""
    bytes_per_row = vocab * (dtype.itemsize if in_place or dtype == torch.float32 else 4 + dtype.itemsize)
    fitting = max(1, workspace_bytes // bytes_per_row)
    chunks = -(-rows // fitting)
    return max(1, -(-rows // max(1, chunks)))  # equal chunks rather than a small last one


class _JointCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weight, bias, labels, coefficients, chunk, kernel=None):
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        # Gradients are formed per `unit`, a power of two near the largest coefficient; backward multiplies by it and by
        # fp16's loss scale together, for coefficients of 1 / rows alone are below what fp16 holds.
        # Made of bits: the exponent one higher, and no mantissa. `frexp` is not there on every device.
        bits = coefficients.abs().max().view(torch.int32)
        unit = ((bits & 0x7F800000) + 0x00800000).view(torch.float32)
        losses = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
        rows_grad = torch.empty_like(rows) if wants_rows else None
        weight_grad = None
        bias_grad = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None
        logits_buffer = rows.new_empty(min(chunk, len(rows)), len(weight))
        # The kernel works in place, and so does fp32: one buffer is enough then.
        fp32_buffer = logits_buffer if kernel else logits_buffer.float()

        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            x, target, coefficient = rows[part], labels[part, None], coefficients[part, None] / unit
            logits, gradient = logits_buffer[: len(x)], fp32_buffer[: len(x)]
            if bias is None:
                torch.mm(x, weight.t(), out=logits)
            else:
                torch.addmm(bias, x, weight.t(), out=logits)
            # d loss / d logits, per unit = coefficient x (softmax - one-hot of the label)
            if kernel:
                kernel(logits, target, coefficient, losses[part])
            else:
                highest, at_target = logits.amax(1, keepdim=True).float(), logits.gather(1, target).float()
                torch.sub(logits, highest, out=gradient).exp_()
                total = gradient.sum(1, keepdim=True)
                losses[part] = (total.log() - (at_target - highest)).squeeze(1)
                gradient.mul_(coefficient / total).scatter_add_(1, target, -coefficient)
            if wants_bias:
                bias_grad += gradient.sum(0, dtype=torch.float32)
            gradient = gradient if gradient.dtype == logits.dtype else logits.copy_(gradient)
            if wants_rows:
                torch.mm(gradient, weight, out=rows_grad[part])
            if wants_weight:
                weight_grad = _plus_product(weight_grad, gradient, x)

        loss = torch.dot(losses, coefficients)
        ctx.save_for_backward(rows_grad, weight_grad, bias_grad, loss, unit)
        ctx.dtype = rows.dtype
        ctx.mark_non_differentiable(losses)
        return loss, losses

    @staticmethod
    @once_differentiable
    def backward(ctx, loss_gradient, _):
        *gradients, loss, unit = ctx.saved_tensors
        # 0 x loss is 0 for a finite loss and NaN otherwise: no gradient of a broken loss looks healthy.
        scale = loss_gradient * unit + 0 * loss
        return *(None if g is None else g.float().mul_(scale).to(ctx.dtype) for g in gradients), *(None,) * 4


def _plus_product(total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """total + left^T @ right, in place after the first chunk, with the sum over chunks kept in fp32."""
    if left.dtype == torch.float32:
        return left.t() @ right if total is None else total.addmm_(left.t(), right)
    if left.is_cuda and sums_products_in_fp32():
        if total is None:
            return torch.mm(left.t(), right, out_dtype=torch.float32)
        return torch.addmm(total, left.t(), right, out_dtype=torch.float32, out=total)
    product = left.t() @ right  # rounded, and as large as the matrix
    return product.float() if total is None else total.add_(product)


@functools.cache
def sums_products_in_fp32() -> bool:
    """Whether the GPU adds a low-precision product to an fp32 sum: in PyTorch from 2.10 on, and not on every device."""
    left, right = torch.ones(8, 16, dtype=torch.bfloat16, device="cuda"), torch.full((8, 16), 2.0**-9, device="cuda")
    total = torch.ones(16, 16, device="cuda")
    try:
        torch.addmm(total, left.t(), right.to(left.dtype), out_dtype=torch.float32, out=total)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0]
    else:
        if torch.equal(total, torch.full_like(total, 1 + 2.0**-6)):
            return True
        reason = f"the sum is {total[0, 0].item()}"
    _warn(f"the joint loss adds products in an extra step, more slowly: {reason}")
    return False


def _warn(message: str) -> None:
    """All ranks meet the same; rank 0 says it."""
    if is_first_rank():
        print(f"WARNING: {message}", flush=True)

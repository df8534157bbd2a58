"""A Triton kernel: the cross-entropies of rows of logits, and in the logits' place their gradient.

Two reads and one write of every logit, in their own precision; all arithmetic is in fp32. In PyTorch alone, the same
takes eight operations that read and write fp32 logits (`tools/benchmarks/joint_loss_traffic.md`). Needs the package
`triton`, which a CUDA build of PyTorch brings.
"""

import torch
import triton
import triton.language as tl

_BLOCK, _WARPS = 4096, 8  # logits at a time


@triton.jit
def _kernel(logits, labels, coefficients, losses, vocab, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    start = logits + row * stride
    label = tl.load(labels + row)
    coefficient = tl.load(coefficients + row)
    at_label = tl.load(start + label).to(tl.float32)

    # Each lane has its own largest logit and its own sum, so that nothing is reduced inside the loop.
    highest = tl.full([BLOCK], -3.0e38, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, vocab, BLOCK):
        there = first + place < vocab
        x = tl.load(start + first + place, mask=there, other=-3.0e38).to(tl.float32)
        higher = tl.maximum(highest, x)
        total = total * tl.exp(highest - higher) + tl.where(there, tl.exp(x - higher), 0.0)
        highest = higher
    most = tl.max(highest, axis=0)
    whole = tl.sum(total * tl.exp(highest - most), axis=0)
    tl.store(losses + row, tl.log(whole) - (at_label - most))

    for first in range(0, vocab, BLOCK):
        there = first + place < vocab
        x = tl.load(start + first + place, mask=there, other=-3.0e38).to(tl.float32)
        gradient = coefficient * (tl.exp(x - most) / whole)
        gradient = tl.where(first + place == label, gradient - coefficient, gradient)
        tl.store(start + first + place, gradient.to(logits.dtype.element_ty), mask=there)


def softmax_gradient_(
    logits: torch.Tensor, labels: torch.Tensor, coefficients: torch.Tensor, losses: torch.Tensor
) -> None:
    """Write each row's cross-entropy in nats into `losses`, and into `logits` coefficient x (softmax - one-hot).

    logits: [R, V] in any floating type, with neighbouring columns. labels: int64 [R]. coefficients, losses: fp32 [R].
    """
    rows, vocab = logits.shape
    if logits.stride(1) != 1 or not all(x.is_contiguous() for x in (labels, coefficients, losses)):
        raise ValueError("softmax_gradient_: columns of the logits, and the vectors, must be contiguous")
    block = min(_BLOCK, triton.next_power_of_2(vocab))
    _kernel[(rows,)](logits, labels, coefficients, losses, vocab, logits.stride(0), BLOCK=block, num_warps=_WARPS)

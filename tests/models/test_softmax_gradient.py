"""The GPU kernel of the joint loss, run by Triton's interpreter on the CPU, against naive logits."""

import os

import pytest
import torch

from tests.models.test_joint_loss import assert_close, gradients, make_inputs, naive

os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
pytest.importorskip(
    "triton", reason="Triton is not installed here: it comes with PyTorch for CUDA; make test-kernel brings it"
)
pytestmark = pytest.mark.skipif(
    os.environ["TRITON_INTERPRET"] != "1", reason="TRITON_INTERPRET is not 1: the kernel would need a GPU"
)

from megamini.models.joint_loss import _JointCrossEntropy  # noqa: E402
from megamini.models.softmax_gradient import softmax_gradient_  # noqa: E402


def fused(x, weight, bias, labels, coefficients):
    return _JointCrossEntropy.apply(x, weight, bias, labels, coefficients, 20, softmax_gradient_)


def unfused(x, weight, bias, labels, coefficients):
    return _JointCrossEntropy.apply(x, weight, bias, labels, coefficients, 20)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows, vocab, width", [(1, 11, 3), (23, 101, 8), (45, 9001, 16)])
def test_equals_naive_logits(rows, vocab, width, with_bias):
    inputs = make_inputs(rows, vocab, width, with_bias)
    loss, losses, expected = gradients(naive, *inputs, torch.float64, scale=3.0)
    own_loss, own_losses, found = gradients(fused, *inputs, torch.float32, scale=3.0)
    assert_close(own_loss, loss, 1e-5)
    assert_close(own_losses, losses, 1e-5)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            assert_close(one, other, 1e-5)


def test_low_precision_is_no_less_precise_than_without_the_kernel():
    inputs = make_inputs(60, 3000, 32)
    _, _, expected = gradients(naive, *inputs, torch.float64)
    found, other = (gradients(function, *inputs, torch.float16) for function in (fused, unfused))
    # The same logits, rounded to fp16: what is made of them differs by fp32's rounding alone.
    assert_close(found[0], other[0], 1e-6)
    assert_close(found[1], other[1], 1e-6)
    # The bias's is a sum of gradients that are rounded already.
    for exact, one, two, more in zip(expected, found[2], other[2], (1.1, 1.1, 1.5), strict=True):
        error, before = ((got - exact).norm() / exact.norm() for got in (one, two))
        assert error <= more * before


def test_bf16_is_what_fp32_gives_for_the_same_logits():
    """But for the last bit, which the interpreter cuts off and a GPU rounds."""
    logits, labels = torch.randn(5, 6000).bfloat16(), torch.tensor([0, 4095, 4096, 5999, 17])
    whole, coefficients, losses, own = logits.float(), torch.rand(5), torch.empty(5), torch.empty(5)
    softmax_gradient_(whole, labels, coefficients, losses)
    softmax_gradient_(logits, labels, coefficients, own)
    assert torch.equal(own, losses)
    assert ((logits.float() - whole).abs() <= 2.0**-7 * whole.abs()).all()


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_large_logits(factor):
    x, *rest = make_inputs(20, 5000, 16)
    inputs = (x * factor, *rest)
    _, losses, _ = gradients(naive, *inputs, torch.float64)
    _, own_losses, _ = gradients(fused, *inputs, torch.float32)
    assert_close(own_losses, losses, 1e-5)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_row_breaks_every_gradient(broken):
    x, *rest = make_inputs(20, 101, 8)
    x[7, 3] = broken
    loss, losses, found = gradients(fused, x, *rest, torch.float32)
    assert not loss.isfinite() and not losses[7].isfinite() and losses[torch.arange(20) != 7].isfinite().all()
    assert not any(gradient.isfinite().any() for gradient in found)


def test_rows_of_a_buffer_that_is_wider():
    """The last chunk is smaller than the buffer, and what lies behind it stays."""
    buffer, labels = torch.randn(9, 50), torch.tensor([3, 49, 0, 7])
    kept, coefficients, losses = buffer.clone(), torch.rand(4), torch.empty(4)
    softmax_gradient_(buffer[:4, :50], labels, coefficients, losses)
    assert torch.equal(buffer[4:], kept[4:])
    expected = torch.nn.functional.cross_entropy(kept[:4], labels, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-6)
    with pytest.raises(ValueError, match="must be contiguous"):
        softmax_gradient_(buffer.t()[:4], labels, coefficients, losses)

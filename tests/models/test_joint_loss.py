"""The joint loss against naive logits: value, gradients, low precision, broken rows, memory."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from megamini.models import joint_loss
from megamini.models.joint_loss import _JointCrossEntropy, joint_cross_entropy


def make_inputs(rows, vocab, width, with_bias=True, seed=0):
    """Inputs in fp32, with coefficients that differ from row to row."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=draw)
    weight = torch.randn(vocab, width, generator=draw) * 0.3
    bias = torch.randn(vocab, generator=draw) if with_bias else None
    labels = torch.randint(vocab, (rows,), generator=draw)
    coefficients = (torch.rand(rows, generator=draw) + 0.1) / rows
    return x, weight, bias, labels, coefficients


def naive(x, weight, bias, labels, coefficients):
    """Whole logits in the inputs' precision; sums in fp32 at least."""
    logits = functional.linear(x, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return torch.dot(losses, coefficients.to(losses.dtype)), losses


def gradients(loss_function, x, weight, bias, labels, coefficients, dtype, scale=1.0, **options):
    """Loss, losses and [rows, weight, bias] gradients with the inputs in `dtype`, all as float64."""
    leaves = [None if t is None else t.to(dtype).requires_grad_() for t in (x, weight, bias)]
    loss, losses = loss_function(*leaves, labels, coefficients, **options)
    (loss * scale).backward()
    return loss.double(), losses.detach().double(), [None if t is None else t.grad.double() for t in leaves]


def assert_close(found, expected, tolerance):
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


# A workspace of `rows_at_once` fp32 rows of logits: 1, 7 and 1000 do not divide the rows or hold them all.
@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows, vocab, width", [(1, 11, 3), (23, 101, 8), (130, 1003, 32)])
def test_equals_naive_logits_in_float64(rows, vocab, width, with_bias, rows_at_once):
    inputs = make_inputs(rows, vocab, width, with_bias)
    loss, losses, grads = gradients(naive, *inputs, torch.float64, scale=3.0)
    own_loss, own_losses, own_grads = gradients(
        joint_cross_entropy, *inputs, torch.float32, scale=3.0, workspace_bytes=rows_at_once * vocab * 4
    )
    assert_close(own_loss, loss, 1e-6)
    assert_close(own_losses, losses, 1e-6)
    for found, expected in zip(own_grads, grads, strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_large_logits_neither_overflow_nor_lose_the_loss(factor):
    x, *rest = make_inputs(20, 500, 16)
    inputs = (x * factor, *rest)
    loss, losses, _ = gradients(naive, *inputs, torch.float64)
    own_loss, own_losses, _ = gradients(joint_cross_entropy, *inputs, torch.float32)
    assert losses.max() > (300 if factor > 1 else 1)
    assert_close(own_loss, loss, 1e-6)
    assert_close(own_losses, losses, 1e-6)


@pytest.mark.parametrize("frozen", [{0}, {1}, {2}, {0, 2}, {1, 2}, {0, 1}])
def test_frozen_inputs_get_no_gradient_and_change_no_other(frozen):
    inputs = make_inputs(23, 101, 8)
    _, _, expected = gradients(naive, *inputs, torch.float64)
    leaves = [t.clone().requires_grad_(i not in frozen) for i, t in enumerate(inputs[:3])]
    joint_cross_entropy(*leaves, *inputs[3:], workspace_bytes=7 * 101 * 4)[0].backward()
    for number, leaf in enumerate(leaves):
        if number in frozen:
            assert leaf.grad is None
        else:
            assert_close(leaf.grad.double(), expected[number], 1e-5)


@pytest.mark.parametrize("with_bias", [True, False])
def test_without_gradients_the_values_are_the_same(with_bias):
    inputs = make_inputs(23, 101, 8, with_bias)
    loss, losses, _ = gradients(naive, *inputs, torch.float64)
    with torch.no_grad():
        own_loss, own_losses = joint_cross_entropy(*inputs, workspace_bytes=7 * 101 * 4)
    assert not own_loss.requires_grad
    assert_close(own_loss.double(), loss, 1e-6)
    assert_close(own_losses.double(), losses, 1e-6)


def test_losses_are_detached_and_inputs_untouched():
    x, *rest = make_inputs(23, 101, 8)
    kept = [t.clone() for t in (x, *rest)]
    x.requires_grad_()
    loss, losses = joint_cross_entropy(x, *rest)
    loss.backward()
    assert loss.requires_grad and not losses.requires_grad
    assert all(torch.equal(a.detach(), b) for a, b in zip((x, *rest), kept, strict=True))


def low_precision_products(x, weight, bias, labels, coefficients):
    """What a GPU runs: on a CPU the public function multiplies in fp32."""
    return _JointCrossEntropy.apply(x, weight, bias, labels, coefficients, 20)


@pytest.mark.parametrize("function", [joint_cross_entropy, low_precision_products])
def test_bf16_is_no_less_precise_than_naive_bf16(function):
    """Mean over seeds of the error relative to float64 of the same bf16-rounded inputs."""
    errors = {"own": [], "naive": []}
    for seed in range(6):
        inputs = [
            t.bfloat16().float() if t.is_floating_point() and i < 3 else t
            for i, t in enumerate(make_inputs(96, 2000, 64, seed=seed))
        ]
        exact = gradients(naive, *inputs, torch.float64)
        for name, candidate in (("own", function), ("naive", naive)):
            found = gradients(candidate, *inputs, torch.bfloat16)
            pairs = [(found[0], exact[0]), (found[1], exact[1]), *zip(found[2], exact[2], strict=True)]
            errors[name].append([((a - b).norm() / b.norm()).item() for a, b in pairs])
    own, reference = (torch.tensor(errors[name]).mean(0) for name in ("own", "naive"))
    assert (own <= 1.1 * reference).all(), f"ours {own.tolist()}, naive {reference.tolist()}"


def test_fp16_gradients_survive_small_coefficients_and_the_loss_scale():
    x, weight, bias, labels, coefficients = make_inputs(40, 300, 16)
    coefficients = coefficients * 1e-4  # as of some 100,000 rows: their gradients are below what fp16 holds
    scale = 2.0**19  # above what fp16 holds
    exact = gradients(naive, x, weight, bias, labels, coefficients, torch.float64, scale)
    found = gradients(low_precision_products, x, weight, bias, labels, coefficients, torch.float16, scale)
    for own, expected in zip(found[2], exact[2], strict=True):
        assert_close(own, expected, 5e-3)


def test_rows_that_all_weigh_nothing_give_zero_gradients():
    x, weight, bias, labels, coefficients = make_inputs(5, 20, 4)
    _, _, grads = gradients(joint_cross_entropy, x, weight, bias, labels, coefficients * 0, torch.float32)
    assert all((grad == 0).all() for grad in grads)


def test_bf16_gradients_come_in_bf16():
    inputs = make_inputs(5, 20, 4)
    leaves = [t.bfloat16().requires_grad_() for t in inputs[:3]]
    loss, losses = joint_cross_entropy(*leaves, *inputs[3:])
    loss.backward()
    assert loss.dtype == losses.dtype == torch.float32
    assert [leaf.grad.dtype for leaf in leaves] == [torch.bfloat16] * 3


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), None])
def test_a_broken_row_makes_every_gradient_not_finite(broken):
    x, *rest = make_inputs(23, 101, 8)
    if broken is not None:
        x[11, 3] = broken
    leaves = [t.requires_grad_() for t in (x, *rest[:2])]
    loss, _ = joint_cross_entropy(*leaves, *rest[2:], workspace_bytes=7 * 101 * 4)
    loss.backward()
    for leaf in leaves:
        finite = leaf.grad.isfinite()
        assert finite.all() if broken is None else not finite.any()


# --- what only a GPU has ----------------------------------------------------------------------------------------------


def on_this_device(monkeypatch, *names):
    """Tensors that are asked for on a GPU come on the CPU."""
    for name in names:
        own = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, own=own, device, **more: own(*a, **more))


def test_a_cpu_is_not_asked_for_the_kernel(monkeypatch):
    monkeypatch.setattr(joint_loss, "gpu_kernel", None)
    monkeypatch.setattr(joint_loss, "sums_products_in_fp32", None)
    _, _, grads = gradients(joint_cross_entropy, *make_inputs(5, 20, 4), torch.bfloat16)
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("fault", ["no GPU's compiler", "wrong"])
def test_a_kernel_that_does_not_run_or_is_wrong_is_said(fault, monkeypatch, capsys):
    def kernel(*_):
        if fault != "wrong":
            raise OSError(fault)

    module = SimpleNamespace(softmax_gradient_=kernel)
    monkeypatch.setitem(sys.modules, "megamini.models.softmax_gradient", module)
    on_this_device(monkeypatch, "zeros", "ones")
    assert joint_loss.gpu_kernel.__wrapped__() is None
    reason = "a gradient is 0.0 instead of -0.875" if fault == "wrong" else fault
    assert capsys.readouterr().out == f"WARNING: the joint loss runs without its GPU kernel, more slowly: {reason}\n"


def test_a_kernel_that_is_right_is_taken(monkeypatch, capsys):
    def kernel(logits, labels, coefficients, losses):
        logits.copy_(coefficients[:, None] * (logits.softmax(1) - functional.one_hot(labels, logits.shape[1])))

    module = SimpleNamespace(softmax_gradient_=kernel)
    monkeypatch.setitem(sys.modules, "megamini.models.softmax_gradient", module)
    on_this_device(monkeypatch, "zeros", "ones")
    assert joint_loss.gpu_kernel.__wrapped__() is kernel
    assert capsys.readouterr().out == ""


def test_products_that_are_not_added_in_fp32_are_said(monkeypatch, capsys):
    addmm = torch.addmm
    on_this_device(monkeypatch, "ones", "full")
    assert not joint_loss.sums_products_in_fp32.__wrapped__()
    assert "adds products in an extra step, more slowly: Could not run" in capsys.readouterr().out
    monkeypatch.setattr(torch, "addmm", lambda total, *_, **__: total.add_(2.0**-9))
    assert not joint_loss.sums_products_in_fp32.__wrapped__()
    assert "more slowly: the sum is 1.00195" in capsys.readouterr().out
    right = lambda total, left, other, out_dtype, out: addmm(total, left.float(), other.float(), out=out)  # noqa: E731
    monkeypatch.setattr(torch, "addmm", right)
    assert joint_loss.sums_products_in_fp32.__wrapped__()
    assert capsys.readouterr().out == ""


def test_this_pytorch_has_the_product_that_a_gpu_is_asked_for():
    left, total = torch.ones(8, 16, dtype=torch.bfloat16, device="meta"), torch.ones(16, 16, device="meta")
    assert torch.addmm(total, left.t(), left, out_dtype=torch.float32, out=total) is total
    assert torch.mm(left.t(), left, out_dtype=torch.float32).dtype == torch.float32


# Peak resident memory above inputs, weights and the returned gradients, in a process that does nothing else.
MEASURE = """
import json, pathlib, sys, torch
from torch.nn import functional
from megamini.models.joint_loss import joint_cross_entropy

rows, vocab, width, workspace = map(int, sys.argv[2:])
x, weight, bias = torch.randn(rows, width), torch.randn(vocab, width) * 0.05, torch.zeros(vocab)
labels, coefficients = torch.randint(vocab, (rows,)), torch.full((rows,), 1 / rows)

def resident(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def run(x, weight, bias, labels, coefficients):
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    if sys.argv[1] == "naive":
        loss = torch.dot(functional.cross_entropy(functional.linear(*leaves), labels, reduction="none"), coefficients)
    else:
        loss, _ = joint_cross_entropy(*leaves, labels, coefficients, workspace)
    loss.backward()
    return sum(t.grad.nbytes for t in leaves)

run(x[:4].clone(), weight[:50].clone(), bias[:50].clone(), labels[:4] % 50, coefficients[:4])  # threads, libraries
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, from what is resident now
before = resident("VmRSS")
returned = run(x, weight, bias, labels, coefficients)
print(json.dumps(resident("VmHWM") - before - returned))
"""


def peak_bytes(which, rows, vocab, width, workspace):
    command = [sys.executable, "-c", MEASURE, which, *map(str, (rows, vocab, width, workspace))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_is_at_most_5_percent_of_naive_logits():
    rows, vocab, width = 2048, 32_000, 64
    reference = peak_bytes("naive", rows, vocab, width, 0)
    own = peak_bytes("own", rows, vocab, width, 8 * 2**20)
    assert reference > 2 * rows * vocab * 4, "naive logits and their gradient were expected in the measurement"
    assert own <= 0.05 * reference, f"{own / 2**20:.0f} MiB against {reference / 2**20:.0f}"


@pytest.mark.all_combinations
def test_memory_at_full_size_is_at_most_5_percent_of_what_naive_logits_take():
    """Naive at this size: logits, log-probabilities and the gradients of both, measured once in joint_loss.md."""
    rows, vocab, width = 4096, 250_000, 768
    assert peak_bytes("own", rows, vocab, width, 256 * 2**20) <= 0.05 * 3 * rows * vocab * 4

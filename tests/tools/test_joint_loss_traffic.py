"""Bytes that the joint loss moves: the page is the script's, and its bytes a logit are those of the operations."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megamini.models.joint_loss import _JointCrossEntropy
from tests.integration.launching import ROOT
from tests.models.test_joint_loss import make_inputs
from tools.benchmarks.joint_loss_traffic import BEFORE, NOW, page

ROWS, VOCAB, WIDTH = 60, 300, 16


class Traffic(TorchDispatchMode):
    """Counts the bytes of tensors with one number for each logit, where operations read or write all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name, returned = func.__name__, func._schema.returns
        is_view = bool(returned and returned[0].alias_info and not returned[0].alias_info.is_write)
        if not is_view and not name.startswith(("gather", "scatter_add_", "empty", "new_empty", "_to_copy")):
            read = args[1:] if name.startswith("copy_") else args
            self.moved += sum(
                one.nbytes
                for one in tree_leaves((read, result))
                if isinstance(one, torch.Tensor) and one.numel() == ROWS * VOCAB
            )
        return result


def moved_per_logit(kernel=None) -> float:
    x, weight, bias, labels, coefficients = make_inputs(ROWS, VOCAB, WIDTH)
    leaves = [tensor.bfloat16().requires_grad_() for tensor in (x, weight, bias)]
    with Traffic() as traffic:
        _JointCrossEntropy.apply(*leaves, labels, coefficients, ROWS, kernel)
    return traffic.moved / ROWS / VOCAB


def test_bytes_a_logit_are_those_of_the_operations():
    assert moved_per_logit() == BEFORE.per_logit
    of_the_kernel = 2 + 2 + 2  # which no counter sees: two reads and a write
    assert moved_per_logit(lambda logits, labels, coefficients, losses: None) + of_the_kernel == NOW.per_logit


def test_the_page_is_the_scripts_and_begins_with_its_table():
    found = (ROOT / "tools/benchmarks/joint_loss_traffic.md").read_text(encoding="utf-8")
    assert found == page(), "run python tools/benchmarks/joint_loss_traffic.py"
    before, now = ([cell.strip() for cell in line.split("|")] for line in found.splitlines() if "| base |" in line)
    assert f"moves {now[5]} GB" in found and f"It was {before[5]} GB before" in found

"""Candidates for the joint loss: time, peak memory and precision, written to joint_loss.md beside this file.

    python tools/benchmarks/joint_loss.py            # 15 minutes of processor time
    python tools/benchmarks/joint_loss.py --full     # and naive logits once at 4,096 x 250,000 x 768 (15 GiB)

Every run is a process of its own with one thread, forward and backward once after a small warm-up.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.nn import functional

from megamini.models.joint_loss import joint_cross_entropy
from tools.benchmarks.page import (
    Cost,
    cost_of,
    heading,
    interleaved_medians,
    measure_apart,
    mebibytes,
    print_cost,
    table,
)

ROWS, WIDTH = 512, 768
ROUNDS = {8_000: 3, 50_000: 3, 250_000: 1}  # by vocabulary
FULL = (4096, 250_000, 768)
MOST_CPU_SECONDS = 20  # a candidate is not repeated after this, nor tried where four times as much is to be expected
CAVEAT = """What to know when reading the tables:

* The machine is shared with other work. Read processor seconds, not the clock. Memory bandwidth and caches are shared
  too. One thread.
* Peak memory is the resident set above inputs, weights and returned gradients. With naive logits the peak comes before
  the gradients exist, so this candidate looks better than it is.
* There was no GPU. Liger's and Apple's kernels are CUDA only and were **not run**. Our low-precision path for GPUs was
  not timed."""
CHOICE = """**Chosen: ours**, with a workspace of 256 MiB by default. It computes the logits in chunks, whatever the
number of rows and pieces. In fp32 it takes no more time than naive logits. In bf16 on a processor without bf16
instructions it takes far less time, and is the most precise: it multiplies in fp32 there. The price is an fp32 copy of
the matrix and of its gradient. With few rows, that is more memory than naive bf16 logits take."""


def naive(x, weight, bias, labels):
    return functional.cross_entropy(functional.linear(x, weight, bias).float(), labels)


def torch_fused(x, weight, bias, labels):
    options = torch.nn.LinearCrossEntropyOptions()
    return functional.linear_cross_entropy(x, weight, labels, linear_bias=bias, options=options)


def ours(mebibytes_of_workspace):
    def loss(x, weight, bias, labels):
        coefficients = torch.full((len(x),), 1 / len(x))
        return joint_cross_entropy(x, weight, bias, labels, coefficients, mebibytes_of_workspace * 2**20)[0]

    return loss


CANDIDATES = {
    "naive logits": naive,
    "torch linear_cross_entropy": torch_fused,
    "ours, 64 MiB": ours(64),
    "ours, 256 MiB": ours(256),
}


def make_inputs(rows, vocab, width, dtype, seed=0):
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(rows, width), torch.randn(vocab, width) * 0.05, torch.randn(vocab)
    return [t.to(dtype).requires_grad_() for t in (x, weight, bias)], torch.randint(vocab, (rows,))


def measure(name, rows, vocab, width, dtype) -> Cost:
    """Forward and backward once, in this process."""

    def run(leaves, labels) -> int:
        CANDIDATES[name](*leaves, labels).backward()
        return sum(leaf.grad.nbytes for leaf in leaves)

    run(*make_inputs(4, 60, 16, dtype))
    leaves, labels = make_inputs(rows, vocab, width, dtype)
    return cost_of(lambda: run(leaves, labels))


def time_and_memory() -> str:
    """A table over precisions, vocabularies and candidates."""
    lines = []
    for dtype in ("float32", "bfloat16"):
        expected = dict.fromkeys(CANDIDATES, 0.0)
        for vocab, rounds in ROUNDS.items():
            tried = {
                name: lambda name=name, vocab=vocab, dtype=dtype: measure_apart(
                    __file__, ("--measure", name, ROWS, vocab, WIDTH, dtype)
                )
                for name in CANDIDATES
                if expected[name] <= 4 * MOST_CPU_SECONDS
            }
            found = interleaved_medians(tried, rounds, MOST_CPU_SECONDS)
            for name in CANDIDATES:
                if name not in found:
                    lines.append((dtype, f"{vocab:,}", name, f"not run: {expected[name]:.0f} expected", "", "", 0))
                    continue
                cost, runs = found[name]
                expected[name] = cost.cpu_seconds * 5.6
                times = f"{cost.cpu_seconds:.2f}", f"{cost.seconds:.2f}"
                lines.append((dtype, f"{vocab:,}", name, *times, mebibytes(cost.peak_bytes), runs))
                print(*lines[-1], sep="  ", flush=True)
    columns = ("precision", "vocabulary", "candidate", "processor s", "clock s", "peak above inputs", "runs")
    measured = f"{ROWS} rows x vocabulary x {WIDTH}, forward plus backward, medians of interleaved runs."
    return f"## Time and memory\n\n{measured}\n\n{table(columns, lines)}"


def precision() -> str:
    """A table of errors relative to float64 of the same rounded inputs."""
    lines = []
    for dtype in (torch.float32, torch.bfloat16):
        for name, candidate in {**CANDIDATES, "ours, 256 MiB": ours(1)}.items():
            if name == "ours, 64 MiB":
                continue
            errors = []
            for seed in range(5):
                leaves, labels = make_inputs(256, 3000, 64, dtype, seed)
                exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
                reference = functional.cross_entropy(functional.linear(*exact), labels)
                reference.backward()
                loss = candidate(*leaves, labels)
                loss.backward()
                pairs = [(loss, reference), *((a.grad, b.grad) for a, b in zip(leaves, exact, strict=True))]
                errors.append([((a.double() - b).norm() / b.norm()).item() for a, b in pairs])
            means = torch.tensor(errors).mean(0).tolist()
            label = "ours" if name.startswith("ours") else name
            lines.append((str(dtype).removeprefix("torch."), label, *(f"{error:.1e}" for error in means)))
    errors = table(("precision", "candidate", "loss", "gradient of rows", "of matrix", "of bias"), lines)
    return f"## Precision\n\nError relative to float64, 256 rows x 3,000 pieces x 64, mean of 5 seeds.\n\n{errors}"


def full_size(with_naive: bool) -> str:
    """Peak memory at 4,096 x 250,000 x 768 in fp32: ours measured, naive measured or computed from its tensors."""
    rows, vocab, width = FULL
    own = measure_apart(__file__, ("--measure", "ours, 256 MiB", *FULL, "float32")).peak_bytes
    size = f"At {rows:,} x {vocab:,} x {width} in fp32"
    text = f"## Full size\n\n{size}, peak memory above inputs and gradients: ours {mebibytes(own)}"
    if with_naive:
        naive_peak = measure_apart(__file__, ("--measure", "naive logits", *FULL, "float32")).peak_bytes
        how = "measured"
    else:
        naive_peak = 3 * rows * vocab * 4
        how = "computed: log-probabilities, their gradient and that of the logits at once; not run, for want of memory"
    return f"{text} (measured), naive logits {mebibytes(naive_peak)} ({how}): {own / naive_peak:.1%}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="measure naive logits at full size too (15 GiB)")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, rows, vocab, width, dtype = options.measure
        return print_cost(measure(name, int(rows), int(vocab), int(width), getattr(torch, dtype)))
    page = [heading("The joint loss: candidates", ("torch",), CHOICE), CAVEAT + "\n"]
    for section in (precision, time_and_memory, lambda: full_size(options.full)):
        page.append(section())
        Path(__file__).with_suffix(".md").write_text("\n".join(page))
    return None


if __name__ == "__main__":
    main()

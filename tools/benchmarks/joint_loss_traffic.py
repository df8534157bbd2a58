"""Bytes that the joint loss moves in a GPU's memory, and its FLOPs, by formula: without our kernel and with it.

python tools/benchmarks/joint_loss_traffic.py     # writes joint_loss_traffic.md beside this file

By formula, not measured. Every operation reads its operands from memory and writes its result there, once.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.commands.planning.clusters import GPUS
from megamini.commands.planning.subject import subject_of
from megamini.errors import CommandParser
from megamini.recipes.objective import MaskingSection
from megamini.recipes.recipe import load_recipe
from tools.benchmarks.page import ROOT, table

# Recipe, pieces, blocks in a micro-batch (as docs/plans.md has it for 64 GPUs).
SIZES = (("base", 50_000, 32), ("xl", 250_002, 8), ("xxl", 250_002, 4))
BLOCK_LENGTH, LOW = 512, 2  # bytes of a bf16 number
GPU = GPUS["a100-80gb"]
BANDWIDTH = 2039e9  # bytes/s, NVIDIA A100 80GB SXM datasheet (2021)
COLUMNS = (
    "shape", "rows x pieces x width", "way", "chunks", "GB moved", "ms of memory", "TFLOPs", "ms of products",
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way to compute the loss: bytes a logit takes in the workspace, and moved a logit; and moved a chunk for each
    element of the token matrix."""

    name: str
    in_workspace: int
    per_logit: int
    per_weight: int
    workspace: int


# The projection writes bf16 logits (2). Then: largest (2), minus it into fp32 (2 + 4), exponential (4 + 4), sum (4),
# times a coefficient (4 + 4), sum for the bias (4), cast (4 + 2), and two products read them (2 + 2). The matrix is
# read by two products (2 + 2); its gradient is written as a bf16 product (2), and added to fp32 (2 + 4 + 4).
BEFORE = Way("before", 6, 44, 16, MaskingSection().loss_workspace_bytes(None))
# The projection (2), the kernel (2 + 2 + 2), sum for the bias (2), two products (2 + 2). The matrix: two products
# (2 + 2), and one that adds to its fp32 gradient (4 + 4).
NOW = Way("now", 2, 14, 12, MaskingSection().loss_workspace_bytes(GPU.memory))


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    options.out.write_text(page(), encoding="utf-8")


def page() -> str:
    rows = [row for name, vocab, blocks in SIZES for row in rows_of(name, vocab, blocks)]
    before, now, *_ = (row[COLUMNS.index("GB moved")] for row in rows)
    return "\n".join(
        [
            "# What the joint loss moves on a GPU",
            "",
            f"By formula, the joint loss of the {rows[0][0]} shape moves {now} GB of a GPU's memory in a "
            f"micro-batch. It was {before} GB before.",
            "**No GPU has run this yet.**",
            "",
            "Forward and backward of one micro-batch in bf16, on an A100 of 80 GB (2,039 GB/s, 312 TFLOP/s).",
            "Command: `python tools/benchmarks/joint_loss_traffic.py`.",
            "",
            table(COLUMNS, rows),
            f"* Before: chunks in {BEFORE.workspace // 2**20} MiB. fp32 logits beside the bf16 ones, in eight "
            f"operations: {BEFORE.per_logit} bytes a logit.",
            f"* Now: chunks in {NOW.workspace // 2**20} MiB, by the GPU's memory. One kernel in place: {NOW.per_logit} "
            "bytes a logit. The product adds",
            "  directly to the fp32 gradient.",
            "",
            "The matrix products are the same.",
            "",
        ]
    )


def rows_of(name: str, vocab: int, blocks: int) -> list[list[str]]:
    recipe = load_recipe(str(ROOT / f"launch/recipes/{name}/minijoint.yaml"), ["optimizer.name=adamw"])
    subject = subject_of(recipe, vocab, BLOCK_LENGTH)
    rows = blocks * subject.mask_schedule.most_masked * (1 + len(subject.exits))
    width = subject.shape.hidden
    found = []
    for way in (BEFORE, NOW):
        chunks = -(-rows // max(1, way.workspace // (vocab * way.in_workspace)))
        moved = rows * vocab * way.per_logit + chunks * vocab * width * way.per_weight + 6 * rows * width * LOW
        flops = 3 * 2 * rows * vocab * width
        size = f"{rows:,} x {vocab:,} x {width:,}"
        times = f"{1e3 * moved / BANDWIDTH:.1f}", f"{flops / 1e12:.2f}", f"{1e3 * flops / GPU.peak('bf16'):.1f}"
        found.append([name, size, way.name, str(chunks), f"{moved / 1e9:.1f}", *times])
    return found


if __name__ == "__main__":
    main()

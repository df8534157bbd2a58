"""The report's section on a pretraining run: each head by its name, beside the unigram model of the same text."""

from megamini.commands.reporting.pretraining import pretraining_section
from megamini.commands.reporting.runs import RunRecord

LEDGER = {"updates": 10, "tokens": 1000, "flops": 1e9, "seconds": 1.0, "ranks": 1, "device": "cpu"}
LOSSES = {
    "primary": 2.0, "exit_4": 2.5, "unigram": 4.0,
    "primary_de": 1.0, "exit_4_de": 1.25, "unigram_de": 3.0,
    "primary_zh-Hans": 2.75, "exit_4_zh-Hans": 3.75, "unigram_zh-Hans": 5.0,
}  # fmt: skip


def test_several_texts_are_told_apart(tmp_path):
    line = {"update": 10, "compute/tokens": 1000.0}
    for head, loss in LOSSES.items():
        line |= {f"validation/loss_{head}": loss, f"validation/bits_per_byte_{head}": loss / 2}
    section = pretraining_section(RunRecord(tmp_path / "run", {}, LEDGER, [line]), tmp_path)
    rows = [row for row in section.splitlines() if row.startswith("| ")][2:]
    assert rows == [
        "| primary, de | 1.000 | 0.500 | +2.000 |",
        "| mini-model at layer 4, de | 1.250 | 0.625 | +1.750 |",
        "| primary | 2.000 | 1.000 | +2.000 |",
        "| mini-model at layer 4 | 2.500 | 1.250 | +1.500 |",
        "| primary, zh-Hans | 2.750 | 1.375 | +2.250 |",
        "| unigram model, de | 3.000 | 1.500 | +0.000 |",
        "| mini-model at layer 4, zh-Hans | 3.750 | 1.875 | +1.250 |",
        "| unigram model | 4.000 | 2.000 | +0.000 |",
        "| unigram model, zh-Hans | 5.000 | 2.500 | +0.000 |",
    ]

"""The page on compiled layers: its first lines are what its table shows."""

from tools.benchmarks import compiled_layers
from tools.benchmarks.compiled_layers import CASES, _page


def test_the_first_lines_are_those_of_the_table(monkeypatch):
    monkeypatch.setattr(compiled_layers, "heading", lambda title, packages, point: point)  # it names the script
    rows = [
        ["plain", "roberta", "minijoint", "fp32", "1.0e-07", "3, 3, 3", "0"],
        ["zero1", "roberta", "minijoint", "bf16", "2.0e-03", "3, 3, 4", "2"],
        ["plain", "llama", "causal", "fp32", "3.0e-07", "2, 3, 3", "1"],
    ]
    page = _page(rows)
    assert "at most 3.0e-07 in fp32, 2.0e-03 in bf16 from" in page
    assert "3 graphs end early. 1 of 3 runs compile a graph after their second update." in page
    assert "| zero1 | roberta | minijoint | bf16 | 2.0e-03 | 3, 3, 4 | 2 |" in page


def test_what_the_table_has():
    """Both kinds of engines, with exits and relearning, of a body with windows and one without."""
    assert {case[0] for case in CASES} >= {"plain", "zero1", "zero2"}
    for body in ("roberta", "modernbert"):
        assert {case[2].partition(",")[0] for case in CASES if case[1] == body} == {"minijoint", "relearning"}

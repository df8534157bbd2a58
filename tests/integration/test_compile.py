"""`training.compile` on a CPU: equal losses, whole graphs, and nothing that is compiled anew along the way."""

import json
import re
from pathlib import Path
from unittest import mock

import pytest

from megamini.training.engines import compiled
from megamini.training.loop import Telemetry
from tests.integration.adapting import Workshop, adapt
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import read_scalars
from tests.integration.ranks import Ranks, pretrain
from tests.integration.test_bad_steps import command, ranks_of

pytestmark = pytest.mark.launched

CASES = [
    Case(stage=None, ranks=1, exits=(1, 2), accumulation=2),
    Case("modernbert", stage=None, ranks=1),
    Case("modernbert", stage=2, ranks=2),
    Case("llama", stage=None, ranks=1),
    pytest.param(Case(stage=1, ranks=2, precision="bf16", checkpointing=True), marks=pytest.mark.all_combinations),
    pytest.param(Case("bert", stage=None, ranks=1, checkpointing=True), marks=pytest.mark.all_combinations),
    pytest.param(Case("xlm-roberta-xl", stage=None, ranks=1), marks=pytest.mark.all_combinations),
    pytest.param(Case(stage=None, ranks=1, minipost=True, exits=()), marks=pytest.mark.all_combinations),
    pytest.param(Case("llama", stage=None, ranks=1, lora=True, exits=()), marks=pytest.mark.all_combinations),
]
SETTINGS = ("schedule.duration=6 updates", "schedule.warmup=1 updates", "telemetry.validate_every=1 updates")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_are_equal_and_graphs_are_whole(case: Case, lab: Lab, tmp_path: Path) -> None:
    lab.source(case)
    found = {}
    for compile in (False, True):
        folder = tmp_path / str(compile)
        folder.mkdir()
        directory, arguments = command(case, lab, folder, *SETTINGS, f"training.compile={str(compile).lower()}")
        target = pretrain_and_count if compile else pretrain
        more = [str(folder / "graphs.json")] if compile else []
        with Ranks(target, [*more, *arguments], ranks_of(case), folder / "logs") as running:
            assert set(running.wait()) == {0}, running.printed()
        found[compile] = read_scalars(directory)
    near = 1e-5 if case.precision == "fp32" else 2e-2
    for name in found[False]:
        if "loss" in name or "grad_norm" in name:
            assert found[True][name] == pytest.approx(found[False][name], rel=near), name
    check_graphs(running.printed(), folder / "graphs.json")


@pytest.mark.parametrize("family", ["roberta", pytest.param("modernbert", marks=pytest.mark.all_combinations)])
def test_relearning_too(family: str, lab: Lab, tmp_path: Path) -> None:
    shop, found = Workshop(lab, tmp_path), {}
    for compile in (False, True):
        changes = {"training.compile": compile, "telemetry.validate_every": "1 updates"}
        changes |= {"adaptation.source": str(shop.pretrained(family))}
        path = shop.recipe(f"learned-{compile}", changes)
        target, more = (adapt_and_count, [str(tmp_path / "graphs.json")]) if compile else (adapt, [])
        with Ranks(target, [*more, path], None, tmp_path / f"logs-{compile}") as running:
            assert running.wait() == [0], running.printed()
        found[compile] = read_scalars(tmp_path / f"learned-{compile}")
    for name in found[False]:
        if "loss" in name:
            assert found[True][name] == pytest.approx(found[False][name], rel=1e-5), name
    check_graphs(running.printed(), tmp_path / "graphs.json")


def check_graphs(printed: str, counts: Path) -> None:
    """None ends early, the log says so, and none is made behind the second update and its validation."""
    (said,) = re.findall(r"compiled: (\d+) graphs, (\d+) graph breaks", printed)
    assert int(said[0]) >= 1 and int(said[1]) == 0
    after = json.loads(counts.read_text())
    assert len(after) >= 6 and after[-1] == after[1], after


def test_it_is_refused_in_a_line_where_it_cannot_work(lab: Lab, tmp_path: Path) -> None:
    _, arguments = command(Case(stage=3, ranks=1), lab, tmp_path, "training.compile=true")
    with Ranks(pretrain, arguments, 1, tmp_path / "logs") as running:
        assert running.wait() == [2]
    assert "error: training.compile: not with ZeRO stage 3" in running.printed()
    assert "Traceback" not in running.printed()
    _, arguments = command(Case(stage=None, ranks=1), lab, tmp_path, "training.compile=true")
    with Ranks(pretrain_without_a_compiler, arguments, None, tmp_path / "none") as running:
        assert running.wait() == [2]
    assert "error: training.compile: needs a C++ compiler, such as g++, on every host: none" in running.printed()


# --- in the processes -----------------------------------------------------------------------------------------------


def count_to(path: str):
    """Write down how many graphs there are behind each update and its validation."""
    counts, record = [], Telemetry.record

    def record_and_count(self: Telemetry, update: int, values: dict[str, float]) -> None:
        record(self, update, values)
        if any(name.startswith("validation/") for name in values):
            counts.append(compiled.graphs_and_breaks())
            Path(path).write_text(json.dumps(counts))

    return mock.patch.object(Telemetry, "record", record_and_count)


def pretrain_and_count(path: str, *arguments: str) -> None:
    with count_to(path):
        pretrain(*arguments)


def adapt_and_count(path: str, *arguments: str) -> None:
    with count_to(path):
        adapt(*arguments)


def pretrain_without_a_compiler(*arguments: str) -> None:
    def fail() -> str:
        raise RuntimeError("none\nat all")

    with mock.patch.object(compiled, "get_cpp_compiler", fail):
        pretrain(*arguments)

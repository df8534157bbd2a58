"""Ranks that were started with another recipe, other data or other code are refused before anything is built."""

import shutil
from pathlib import Path

import pytest

from megamini.errors import UserError
from megamini.training.safety import same_ranks
from megamini.training.safety.same_ranks import check_same_on_all_ranks, code_version

VALUES = {"training": {"seed": 1, "muon": {"steps": 5}}, "data fingerprint": "aa"}


def check(other: dict) -> None:
    check_same_on_all_ranks(VALUES, lambda own: [own, own, ("hostB", {**own[1], **other})])


def test_same_values_pass() -> None:
    check({})


@pytest.mark.parametrize(
    "name", ["training.seed", "training.muon.steps", "data fingerprint", "code of megamini", "torch"]
)
def test_another_value_is_named_with_its_host(name: str) -> None:
    with pytest.raises(UserError, match=f"rank 2 on hostB has another {name} than rank 0 on .*: other, and there"):
        check({name: "other"})


def test_a_value_that_only_one_rank_has() -> None:
    with pytest.raises(UserError, match=r"another training\.new"):
        check({"training.new": 1})


def test_any_changed_file_is_another_code(tmp_path: Path, monkeypatch) -> None:
    before = code_version()
    assert code_version() == before
    package = Path(same_ranks.__file__).parents[2]
    shutil.copytree(package, tmp_path / "megamini", ignore=shutil.ignore_patterns("__pycache__"))
    copy = tmp_path / "megamini/training/safety/same_ranks.py"
    monkeypatch.setattr(same_ranks, "__file__", str(copy))
    assert code_version() == before
    copy.write_text(copy.read_text() + "\n")
    assert code_version()["code of megamini"] != before["code of megamini"]

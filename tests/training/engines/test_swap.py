"""Room for optimizer states on disk, and one line where there is none."""

import pytest
from deepspeed.ops.op_builder import AsyncIOBuilder

from megamini.errors import UserError
from megamini.training.engines.swap import (
    clear_swap_folder,
    own_folder,
    prepare_swap_folder,
    remove_swap_folder,
    state_bytes,
)


@pytest.fixture(autouse=True)
def with_libaio(monkeypatch):
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_, **__: True)


def test_what_a_killed_run_has_left_makes_room(tmp_path):
    left = own_folder(tmp_path / "run", 7) / "weight.swp"
    left.parent.mkdir(parents=True)
    left.write_text("of a rank that there is no more")
    clear_swap_folder(tmp_path / "run")
    prepare_swap_folder(tmp_path / "run", 1, 1000)
    assert [path for path in tmp_path.rglob("*") if path.name.startswith("rank")] == [own_folder(tmp_path / "run", 1)]
    assert not list(own_folder(tmp_path / "run", 1).iterdir())


def test_too_little_room_is_said_at_the_start(tmp_path):
    with pytest.raises(UserError, match=r"nvme_path: .*run has .* GiB free, .* need 14901161\.2; give a folder"):
        prepare_swap_folder(tmp_path / "run", 1, state_bytes(10**15, muon=0))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"nvme_path: .*file: cannot be written: Not a directory"):
        prepare_swap_folder(tmp_path / "file", 0, 1000)


def test_a_missing_libaio_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_, **__: False)
    with pytest.raises(UserError, match="nvme needs libaio"):
        prepare_swap_folder(tmp_path / "run", 1, 1000)


def test_the_last_rank_leaves_nothing(tmp_path):
    for rank in (0, 1):
        prepare_swap_folder(tmp_path / "run", rank, 1000)
    remove_swap_folder(tmp_path / "run", 0)
    assert own_folder(tmp_path / "run", 1).is_dir()
    remove_swap_folder(tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


def test_muon_keeps_one_moment_where_adamw_keeps_two():
    assert state_bytes(1000, muon=0) == 1000 * (4 + 4 + 8)
    assert state_bytes(1000, muon=600) == 400 * (4 + 4 + 8) + 600 * (4 + 4 + 4)

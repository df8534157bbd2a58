"""Room for optimizer states on disk, and one line where there is none."""

import pytest
from deepspeed.ops.op_builder import AsyncIOBuilder

from megamini.errors import UserError
from megamini.training.swap import prepare_swap_folder


def test_room_for_states_on_disk(tmp_path, monkeypatch):
    left = tmp_path / "run" / "zero_stage_3" / "optimizer" / "rank1" / "weight.swp"
    left.parent.mkdir(parents=True)
    left.write_text("by a killed run")
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_, **__: True)
    prepare_swap_folder(tmp_path / "run", 1, 1000)
    assert left.parent.is_dir() and not left.exists()
    with pytest.raises(UserError, match=r"nvme_path: .*run has .* GiB free, .* need 14901161\.2; give a folder"):
        prepare_swap_folder(tmp_path / "run", 1, 10**15)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"nvme_path: .*file: cannot be written: Not a directory"):
        prepare_swap_folder(tmp_path / "file", 0, 1000)
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda *_, **__: False)
    with pytest.raises(UserError, match="nvme needs libaio"):
        prepare_swap_folder(tmp_path / "run", 1, 1000)

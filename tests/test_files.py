"""What is exchanged may be read by whom other new files may be read by."""

import os

import pytest
import torch
from safetensors.torch import load_file

from megamini.files import write_tensors


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_are_those_of_new_files(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_tensors({"a": torch.ones(2)}, tmp_path / "a.safetensors", {"format": "pt"})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == mode
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]

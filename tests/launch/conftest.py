"""The good data and run that the cases of bad input break copies of."""

import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.launch.workplace import Workplace, entry_point, make_data


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good data and a complete run of two updates."""
    folder = tmp_path_factory.mktemp("good")
    arguments = Workplace(folder, make_data(folder / "data")).recipe()
    with mock.patch.object(sys, "argv", ["pretrain.py", *arguments]):
        entry_point("pretrain").main()
    return folder


@pytest.fixture
def workplace(tmp_path: Path, good: Path) -> Workplace:
    return Workplace(tmp_path, good / "data", good / "runs")

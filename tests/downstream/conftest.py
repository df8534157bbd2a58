"""A tiny primary model and a pack for it, made once."""

from pathlib import Path

import pytest

from tests.downstream.workplace import make_pack, make_primary


@pytest.fixture(scope="session")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_primary(tmp_path_factory.mktemp("primary") / "export")


@pytest.fixture(scope="session")
def pack(primary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(primary, tmp_path_factory.mktemp("packs") / "de")

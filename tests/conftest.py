"""What all tests share: fast tests first, the device, and what is run by CI or by `make test-all` alone."""

import pytest

from tests.device import choose_device


def pytest_addoption(parser):
    parser.addoption("--all-combinations", action="store_true", help="run every combination, as `make test-all` does")
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where all tests run (default: cpu)")


def pytest_configure(config):
    choose_device(config.getoption("--device"))


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.get_closest_marker("launched") is not None)  # keeps the order otherwise
    if config.getoption("--all-combinations"):
        return
    for item in items:
        if item.get_closest_marker("all_combinations"):
            item.add_marker(pytest.mark.skip(reason="run by make test-all"))

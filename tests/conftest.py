"""What all tests share: fast tests first, and the switch between the suite that CI runs and every combination."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--all-combinations", action="store_true", help="run every combination, as `make test-all` does")


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.get_closest_marker("launched") is not None)  # keeps the order otherwise
    if config.getoption("--all-combinations"):
        return
    for item in items:
        if item.get_closest_marker("all_combinations"):
            item.add_marker(pytest.mark.skip(reason="run by make test-all"))

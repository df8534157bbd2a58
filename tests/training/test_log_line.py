"""The line of the log, and the scalars behind it: no utilisation that cannot be."""

import time
from types import SimpleNamespace

import pytest
import torch

from megamini.training import loop
from megamini.training.loop import Yardsticks, _log, _Window
from megamini.training.state.train_state import TrainState


class Recorded:
    def record(self, update: int, values: dict[str, float]) -> None:
        self.values = values

    def say(self, line: str) -> None:
        self.line = line


def logged(peak_flops: float) -> Recorded:
    """Of a window with 2 x 10^13 FLOPs in 20 seconds or little more, in two updates."""
    engine = SimpleNamespace(model=SimpleNamespace(head_names=("primary",)), device=torch.device("cpu"))
    schedule = SimpleNamespace(learning_rate=lambda _: 1e-3, updates=9)
    window = _Window(
        time.perf_counter() - 20, updates=2, tokens=100, flops=2 * 10**13, applied=1, losses=[2.0], gradient_norm=1.0
    )
    telemetry = Recorded()
    setup = SimpleNamespace(schedule=schedule, head_weights=(1.0,))
    _log(engine, setup, Yardsticks(peak_flops, 7), TrainState(update=3), window, telemetry)
    return telemetry


def test_utilisation_is_a_share_of_the_peak() -> None:
    telemetry = logged(2e12)
    assert telemetry.values["train/mfu"] == pytest.approx(0.5, rel=0.1)
    assert telemetry.line.endswith("% of peak  60 s left")


def test_more_than_the_peak_is_not_shown() -> None:
    telemetry = logged(5e11)
    assert "train/mfu" not in telemetry.values
    assert telemetry.line.endswith("tokens/s  peak rate unknown  60 s left")


def test_memory_stands_beside_what_was_planned(monkeypatch) -> None:
    monkeypatch.setattr(loop, "memory_scalars", lambda device, planned: {"memory/planned_gib": planned})
    assert logged(2e12).values["memory/planned_gib"] == 7

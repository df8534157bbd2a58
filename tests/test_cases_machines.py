"""Cases of other machines: what a system lacks is done without."""

import os
import signal
import threading

import pytest
import torch

from megamini import machine
from megamini.data import batches
from tests.device import ON_CPU, choose_device, ranks_that_fit


def test_cores_where_the_system_does_not_tell(monkeypatch):
    assert machine.usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.usable_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


def test_workers_where_nobody_says_who_sent_a_signal(monkeypatch):
    monkeypatch.delattr(signal, "sigwaitinfo")
    handlers, threads = {}, threading.active_count()
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: pytest.fail("blocked, and nobody waits for it"))
    batches._leave_signals_to_the_rank(0)
    assert handlers[signal.SIGTERM] is handlers[signal.SIGINT] is signal.SIG_IGN
    assert threading.active_count() == threads


@pytest.mark.parametrize("cuda, mps, chosen", [(True, True, "cuda"), (False, True, "cpu"), (False, False, "cpu")])
def test_one_place_chooses_the_device(cuda, mps, chosen, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert machine.best_device().type == chosen
    assert ("Apple GPU" in capsys.readouterr().out) == (mps and not cuda)


def test_kernels_that_add_in_one_order(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    machine.use_deterministic_kernels()
    try:
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_one_switch_for_the_device_of_the_whole_suite(monkeypatch):
    """No test runs on a GPU where others run on the CPU."""
    environment = {}
    choose_device("cpu", environment)
    assert environment == ON_CPU and ranks_that_fit(64, environment)
    assert ON_CPU.items() <= os.environ.items() or os.environ["DS_ACCELERATOR"] == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(pytest.UsageError, match="there is no GPU here"):
        choose_device("cuda", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    choose_device("cuda", environment := {})
    assert environment == {"DS_ACCELERATOR": "cuda"}
    assert ranks_that_fit(2, environment) and not ranks_that_fit(3, environment), "NCCL takes no two on one GPU"

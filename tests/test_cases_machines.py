"""Cases of other machines: what a system lacks is done without."""

import os
import signal
import threading

import pytest
import torch

from megamini import machine
from megamini.data import batches


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

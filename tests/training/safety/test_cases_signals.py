"""Which signals belong to one event, and which one is the second."""

import os
import signal
import time
from collections.abc import Callable
from unittest import mock

import pytest

from megamini.training.safety import signals
from megamini.training.safety.signals import STOP_SIGNALS, StopFlag


def ended_by(sent: list[signal.Signals | float], launcher: str = "") -> tuple[signal.Signals | None, list[int]]:
    """What was received first, and the statuses that the process would have ended with; numbers are pauses."""
    statuses: list[int] = []
    with (
        mock.patch.dict(os.environ, {"RANK": "0"}),
        mock.patch.object(signals.Path, "read_bytes", lambda _: launcher.encode()),
        mock.patch.object(os, "_exit", statuses.append),
        StopFlag(speaks=False) as flag,
    ):
        for one in sent:
            if isinstance(one, signal.Signals):
                os.kill(os.getpid(), one)
                wait_until(lambda: flag.received is not None)
                time.sleep(0.05)  # the listener reads one that comes later too
            else:
                time.sleep(one)
        return flag.received, statuses


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def in_front():
    """A suite may run behind a shell, where Ctrl-C is ignored."""
    previous = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


INT, HUP, TERM = signal.SIGINT, signal.SIGHUP, signal.SIGTERM


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_cases_a_signal_is_received_and_a_second_one_ends(number: signal.Signals) -> None:
    assert ended_by([number]) == (number, [])
    assert ended_by([number, 0.6, signal.SIGUSR1]) == (number, [128 + signal.SIGUSR1])


def test_cases_one_event_that_sends_two() -> None:
    assert ended_by([TERM, TERM]) == (TERM, []), "timeout: to the command, and to the group"
    assert ended_by([HUP, 0.6, HUP]) == (HUP, []), "a terminal closes: from its shell, and from the system"
    assert ended_by([HUP, 0.6, INT]) == (HUP, [130])
    assert ended_by([INT, 0.6, HUP]) == (INT, [129])


def test_cases_a_launcher_tells_its_ranks_once_more() -> None:
    deepspeed = "python -u -m deepspeed.launcher.launch --world_info=e30="
    assert ended_by([INT, 0.6, TERM], deepspeed) == (INT, [])
    assert ended_by([TERM, 0.6, TERM], deepspeed) == (TERM, []), "a scheduler's, to all processes of a job"
    assert ended_by([INT, 0.6, TERM, TERM], deepspeed) == (INT, [143]), "but one time only"
    assert ended_by([INT, 0.6, INT], deepspeed) == (INT, [130])
    assert ended_by([signal.SIGUSR1, 0.6, TERM], deepspeed) == (signal.SIGUSR1, [143])
    torchrun = "python /usr/bin/torchrun --nproc_per_node 2"
    assert ended_by([TERM, 0.6, TERM], torchrun) == (TERM, [])
    assert ended_by([INT, 0.6, TERM], torchrun) == (INT, [143]), "what it makes of a second Ctrl-C"
    assert ended_by([INT, 0.6, TERM], "bash") == (INT, [143])


def test_cases_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    signal.signal(HUP, signal.SIG_IGN)
    with StopFlag(speaks=False) as flag:
        os.kill(os.getpid(), HUP)
        time.sleep(0.1)
        assert flag.received is None, "what nohup ignores stays ignored"
    signal.signal(HUP, signal.SIG_DFL)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1

"""Ctrl-C, a closed terminal, a scheduler's signal: at most the update they come in is lost; a second ends at once."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from megamini.errors import TRY_AGAIN
from megamini.training.engines.plain_engine import PlainEngine
from tests.integration.adapting import Workshop, adapt
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import ROOT, free_port
from tests.integration.ranks import ENVIRONMENT, Ranks, gone, last_update, pretrain, wait_for_update
from tests.integration.terminal import CTRL_C, Terminal
from tests.integration.test_bad_steps import command

pytestmark = pytest.mark.launched

SIGNALS = ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1")
ENDLESS = ("schedule.duration=1M updates", "data.workers=2")
LAUNCHER = str(Path(sys.executable).with_name("deepspeed"))


@pytest.fixture(scope="module")
def shop(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(lab, tmp_path_factory.mktemp("stopping"))


def newest(directory: Path) -> int:
    return int((directory / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))


def status_after(name: str) -> int:
    """SIGUSR1 is a scheduler's, which starts the same command again."""
    return TRY_AGAIN if name == "SIGUSR1" else 0


def assert_nothing_lost(directory: Path, seen: int, printed: str) -> None:
    """Saved behind the update that the signal came in, or the one that was running."""
    assert seen <= last_update(directory) == newest(directory), printed
    assert f"stopped by a signal after update {newest(directory)};" in printed
    assert "Traceback" not in printed and "error:" not in printed


# --- pretraining, 2 ranks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_cases_a_signal_saves_at_the_next_update(name: str, lab: Lab, tmp_path: Path) -> None:
    check_stopped_at(1, name, lab, tmp_path)


@pytest.mark.all_combinations
@pytest.mark.parametrize("name", SIGNALS)
def test_cases_a_signal_saves_at_five_moments(name: str, lab: Lab, tmp_path: Path) -> None:
    check_stopped_at(5, name, lab, tmp_path)


def check_stopped_at(moments: int, name: str, lab: Lab, folder: Path) -> None:
    """One run, stopped and gone on with so many times. The signal goes to all processes, loader workers included."""
    directory, arguments = command(Case(stage=1), lab, folder, *ENDLESS)
    draw = random.Random(name)
    for _ in range(moments):
        before = newest(directory) if directory.exists() else 0
        with Ranks(in_front, [pretrain, *arguments], 2, folder / "logs") as ranks:
            wait_for_update(directory, before + draw.randint(2, 9), ranks)
            time.sleep(draw.uniform(0, 0.05))
            workers = [worker for rank in range(2) for worker in ranks.workers(rank)]
            assert len(workers) == 4
            seen = last_update(directory)
            for pid in ranks.pids:
                os.killpg(pid, getattr(signal, name))
            assert ranks.wait(60) == 2 * [status_after(name)], ranks.printed()
            assert gone(workers, 30)
            assert_nothing_lost(directory, seen, ranks.printed())
            assert (f"resuming from checkpoint step-{before:08d}" in ranks.printed()) == bool(before)


@pytest.mark.parametrize(
    "name", ["SIGINT", *(pytest.param(name, marks=pytest.mark.all_combinations) for name in SIGNALS[1:])]
)
def test_cases_a_second_signal_ends_a_rank_that_waits_for_another(name: str, lab: Lab, tmp_path: Path) -> None:
    """Its main thread is in a collective, where no handler in Python would run."""
    directory, arguments = command(Case(stage=1), lab, tmp_path, *ENDLESS)
    with Ranks(in_front, [pretrain, *arguments], 2, tmp_path / "logs") as ranks:
        wait_for_update(directory, 2, ranks)
        workers = ranks.workers(0)
        os.kill(ranks.pids[1], signal.SIGSTOP)
        time.sleep(1)
        os.kill(ranks.pids[0], signal.SIGUSR1)
        time.sleep(1)
        assert ranks.processes[0].is_alive()
        os.kill(ranks.pids[0], getattr(signal, name))
        ranks.processes[0].join(5)
        assert ranks.processes[0].exitcode == 128 + getattr(signal, name), ranks.printed()
        assert gone(workers, 5)
        (line,) = [line for line in ranks.printed().splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: {name}: ended at once;")


# --- adapting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_cases_a_signal_saves_an_adaptation(name: str, shop: Workshop) -> None:
    check_adaptation_stopped_at(1, name, shop)


@pytest.mark.all_combinations
@pytest.mark.parametrize("name", SIGNALS)
def test_cases_a_signal_saves_an_adaptation_at_five_moments(name: str, shop: Workshop) -> None:
    check_adaptation_stopped_at(5, name, shop)


def check_adaptation_stopped_at(moments: int, name: str, shop: Workshop) -> None:
    folder, draw = f"{name}-{moments}", random.Random(name)
    directory = shop.folder / folder
    recipe = shop.recipe(folder, {"schedule.duration": "1M updates", "data.workers": 2})
    for _ in range(moments):
        before = newest(directory) if directory.exists() else 0
        with Ranks(in_front, [adapt, recipe], None, shop.folder / "logs") as running:
            wait_for_update(directory, before + draw.randint(2, 9), running)
            time.sleep(draw.uniform(0, 0.05))
            seen = last_update(directory)
            os.killpg(running.pids[0], getattr(signal, name))
            assert running.wait(60) == [status_after(name)], running.printed()
            assert_nothing_lost(directory, seen, running.printed())
    assert not (directory / "packs").exists()


def test_cases_a_second_signal_ends_at_once(shop: Workshop) -> None:
    check_second_ends(("SIGINT", "SIGINT"), shop)


@pytest.mark.all_combinations
@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_cases_any_second_signal_ends_at_once(first: str, second: str, shop: Workshop) -> None:
    check_second_ends((first, second), shop)


def check_second_ends(names: tuple[str, str], shop: Workshop) -> None:
    folder = "-".join(names)
    shutil.rmtree(shop.folder / folder, ignore_errors=True)
    recipe = shop.recipe(folder, {"data.workers": 2})
    with Ranks(in_front, [adapt_slowly, recipe], None, shop.folder / "logs") as running:
        wait_for_update(shop.folder / folder, 1, running)
        time.sleep(1)
        workers = running.workers(0)
        os.kill(running.pids[0], getattr(signal, names[0]))
        # Closing a terminal sends SIGHUP twice; only later is another one meant.
        time.sleep(5.5 if set(names) == {"SIGHUP"} else 1)
        assert running.alive(), running.printed()
        os.kill(running.pids[0], getattr(signal, names[1]))
        assert running.wait(5) == [128 + getattr(signal, names[1])], running.printed()
        assert gone(workers, 5)
    assert not (shop.folder / folder / "checkpoints").exists()


def test_cases_what_nohup_ignores_stays_ignored(shop: Workshop) -> None:
    directory, recipe = shop.folder / "nohup", shop.recipe("nohup", {"schedule.duration": "1M updates"})
    with Ranks(ignoring_hangups, [adapt, recipe], None, shop.folder / "logs") as running:
        wait_for_update(directory, 2, running)
        os.kill(running.pids[0], signal.SIGHUP)
        wait_for_update(directory, last_update(directory) + 20, running)


def test_cases_one_event_that_sends_two_signals_saves(shop: Workshop) -> None:
    """`timeout` signals its command, and then the whole group."""
    directory, recipe = shop.folder / "timeout", shop.recipe("timeout", {"schedule.duration": "1M updates"})
    started = ["timeout", "600", sys.executable, "launch/adapt.py", recipe]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(started, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, **options) as process:
        try:
            wait_for_update(directory, 3, mock.Mock(alive=lambda: process.poll() is None))
            process.terminate()
            printed, _ = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert_nothing_lost(directory, 3, printed)


# --- a terminal -------------------------------------------------------------------------------------------------------


def check_terminal(closes: bool, started: list[str], directory: Path) -> None:
    with Terminal(started, path=str(Path(sys.executable).parent)) as terminal:
        wait_for_update(directory, 3, terminal)
        processes, seen = list(terminal.look()), last_update(directory)
        if closes:
            terminal.close()
        else:
            terminal.type(CTRL_C)
            terminal.wait_for("stopped by a signal after update", 60)
        assert gone(processes, 60)
        assert seen <= last_update(directory) == newest(directory)


@pytest.mark.parametrize("closes", [False, True])
def test_cases_in_a_terminal(closes: bool, shop: Workshop) -> None:
    name = f"terminal-{closes}"
    recipe = shop.recipe(name, {"schedule.duration": "1M updates", "data.workers": 2})
    check_terminal(closes, [sys.executable, "launch/adapt.py", recipe], shop.folder / name)


def test_cases_ctrl_c_under_the_launcher(lab: Lab, tmp_path: Path) -> None:
    """It reaches the launcher, the ranks and their workers; the launcher then tells each rank and worker once more."""
    check_launched_terminal(False, lab, tmp_path)


@pytest.mark.all_combinations
def test_cases_a_closed_terminal_under_the_launcher(lab: Lab, tmp_path: Path) -> None:
    check_launched_terminal(True, lab, tmp_path)


def check_launched_terminal(closes: bool, lab: Lab, folder: Path) -> None:
    directory, arguments = command(Case(stage=2), lab, folder, *ENDLESS)
    started = [LAUNCHER, "--num_gpus", "2", "--master_port", str(free_port()), "launch/pretrain.py", *arguments]
    check_terminal(closes, [f"'{argument}'" for argument in started], directory)


# --- in the processes -------------------------------------------------------------------------------------------------


def in_front(target: Callable[..., None], *arguments: str) -> None:
    """As a shell starts a command in front: a suite may run where signals are ignored, and what it starts inherits."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    target(*arguments)


def ignoring_hangups(target: Callable[..., None], *arguments: str) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    target(*arguments)


def adapt_slowly(*arguments: str) -> None:
    """The second update takes a minute."""
    step, done = PlainEngine.step, []

    def slow(engine: PlainEngine, learning_rate: float):
        done.append(learning_rate)
        if len(done) == 2:
            time.sleep(60)
        return step(engine, learning_rate)

    with mock.patch.object(PlainEngine, "step", slow):
        adapt(*arguments)

"""How commands end when something outside the input fails: full disks, Ctrl-C, the launcher, a rank alone."""

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from megamini.training.telemetry import Telemetry
from tests.integration.launching import ROOT, free_port, run_command
from tests.launch.workplace import Workplace, run_in_process, the_line

FULL = ("cannot be written", "free some space")
IN_A_TINY_DISK = 'mount -t tmpfs -o size="$0" none "$1" && shift && exec "$@"'


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk or a quota does to this process: no file grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_one_line(status: int, stderr: str, *words: str) -> None:
    line = the_line(stderr)
    assert status == 2
    assert not [word for word in words if word not in line], line


def test_full_disk_at_the_start(workplace: Workplace, capfd) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch("os.fsync", side_effect=full):
        assert_one_line(*run_in_process("pretrain", workplace.recipe(), capfd), "small/running.json", *FULL)


def test_full_disk_at_a_checkpoint(workplace: Workplace, capfd) -> None:
    with files_no_larger_than(80_000):  # a checkpoint has 170,000 bytes
        ended = run_in_process("pretrain", workplace.recipe(), capfd)
    assert_one_line(*ended, "step-00000001", "cannot be written", "free some space", "earlier checkpoints are whole")


def test_full_disk_at_a_line_of_metrics(workplace: Workplace, capfd) -> None:
    def into_a_full_disk(self: Telemetry, *arguments) -> None:
        start(self, *arguments)
        self._metrics = Path("/dev/full").open("a")  # noqa: SIM115 (Telemetry closes it)

    start = Telemetry.__init__
    with mock.patch.object(Telemetry, "__init__", into_a_full_disk):
        assert_one_line(*run_in_process("pretrain", workplace.recipe(), capfd), "small/metrics.jsonl", *FULL)


def test_full_disk_at_an_export(workplace: Workplace, capfd) -> None:
    run, out = workplace.run(), workplace.folder / "out"
    with files_no_larger_than(40_000):  # the weights have 57,000 bytes
        assert_one_line(*run_in_process("export", [str(run), str(out)], capfd), str(out), *FULL)
    assert not out.exists()


def test_full_disk_at_a_report(workplace: Workplace, capfd) -> None:
    run, out = workplace.run(), workplace.folder / "report"
    with files_no_larger_than(8_000):  # the plot is larger
        assert_one_line(*run_in_process("report", [str(run), "--out", str(out)], capfd), str(out), *FULL)


def test_interrupted_in_process(workplace: Workplace, capfd) -> None:
    with mock.patch("megamini.training.run.train", side_effect=KeyboardInterrupt):
        status, stderr = run_in_process("pretrain", workplace.recipe(), capfd)
    assert (status, the_line(stderr)) == (130, "error: interrupted")


# --- real commands ----------------------------------------------------------------------------------------------------


def lines_of(ended: subprocess.CompletedProcess) -> list[str]:
    assert "Traceback" not in ended.stdout, ended.stdout
    return [line for line in ended.stdout.splitlines() if "error:" in line]


def deepspeed(script: str, recipe: str, port: int | None = None) -> list[str]:
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    return [launcher, "--num_gpus", "2", "--master_port", str(port or free_port()), script, recipe]


@pytest.mark.launched
def test_two_ranks_say_one_line(workplace: Workplace) -> None:
    (recipe,) = workplace.recipe_text("learning_rate: 0.001", "learning_rate: 7e-4")
    ended = run_command(deepspeed("launch/pretrain.py", recipe), timeout=120)
    assert ended.returncode == 2, ended.stdout
    (line,) = lines_of(ended)
    assert line.startswith(f"error: {recipe}: optimizer.learning_rate") and "write 7.0e-4" in line


@pytest.mark.launched
def test_a_port_that_another_run_has(workplace: Workplace) -> None:
    (recipe,) = workplace.recipe()
    with socket.create_server(("", 0)) as other_run:
        port = other_run.getsockname()[1]
        ended = run_command(deepspeed("launch/pretrain.py", recipe, port), timeout=120)
    assert ended.returncode == 2, ended.stdout
    (line,) = lines_of(ended)
    assert line.startswith(f"error: 127.0.0.1:{port}: ranks cannot meet there") and f"--master_port {port + 1}" in line


@pytest.mark.launched
def test_a_rank_that_fails_alone_says_who_it_is(workplace: Workplace) -> None:
    """Rank 0 waits for it meanwhile; the launcher ends that wait."""
    (recipe,) = workplace.recipe()
    ended = run_command(deepspeed("tests/launch/one_rank_fails.py", recipe), timeout=120)
    assert ended.returncode == 2, ended.stdout
    (line,) = lines_of(ended)
    assert line.startswith("error: rank 1: only-here/gone.yaml")


def test_a_rank_ends_without_a_teardown() -> None:
    """Threads of the process group may abort a process whose interpreter is taken down: seen once in many runs."""
    main = "import atexit, os; from megamini import errors; atexit.register(os.abort)"
    main += "; errors.run_command(lambda: print('all is done', end=''))"
    ended = subprocess.run(
        [sys.executable, "-c", main], cwd=ROOT, env=os.environ | {"RANK": "1"}, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (0, "all is done"), ended.stderr


@pytest.mark.launched
def test_a_full_disk_on_the_command_line(workplace: Workplace) -> None:
    """The whole run directory on a disk of 100 KiB, TensorBoard's thread included."""
    disk = workplace.folder_named("disk")
    inside = ["unshare", "-Urm", "sh", "-c", IN_A_TINY_DISK]
    if shutil.which("unshare") is None or run_command([*inside, "100k", disk, "true"], timeout=60).returncode:
        pytest.skip("no tiny disk can be mounted here")
    (recipe,) = workplace.recipe({"training.runs": disk, "data.workers": 1})
    ended = run_command([*inside, "100k", disk, sys.executable, "launch/pretrain.py", recipe], timeout=120)
    assert ended.returncode == 2, ended.stdout
    (line,) = lines_of(ended)
    assert line.startswith(f"error: {disk}/small/") and "free some space" in line


@pytest.mark.launched
def test_output_into_a_full_disk(workplace: Workplace) -> None:
    command = [sys.executable, "tools/report.py", str(workplace.run()), "--out", str(workplace.folder / "report")]
    ended = run_command(["sh", "-c", 'exec "$@" >/dev/full', "sh", *command], timeout=120)
    assert ended.returncode == 2, ended.stdout
    (line,) = lines_of(ended)
    assert "No space left" in line


@pytest.mark.launched
def test_interrupted_is_one_line_and_130(workplace: Workplace) -> None:
    """Where nothing is in training that could be saved: here it waits for another run (Ctrl-C in training:
    tests/integration/test_cases_stopping.py)."""
    (recipe,) = workplace.recipe()
    directory = Path(workplace.folder_named("runs/small"))
    command = [sys.executable, "-u", "launch/pretrain.py", recipe]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    # A suite that a shell started in the background ignores the signal, and so would what it starts.
    options["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    handle = os.open(directory / "running.json", os.O_RDWR | os.O_CREAT)
    fcntl.lockf(handle, fcntl.LOCK_EX)
    with subprocess.Popen(command, cwd=ROOT, **options) as process:
        try:
            assert any(line.startswith("waiting for the run") for line in process.stdout)
            os.killpg(process.pid, signal.SIGINT)
            _, stderr = process.communicate(timeout=40)
        finally:
            os.close(handle)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in stderr
    assert (process.returncode, the_line(stderr)) == (130, "error: interrupted")

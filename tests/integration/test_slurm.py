"""launch/cluster/pretrain.sbatch under stand-ins for Slurm: preempted in training, and while it starts."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration import slurm
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import ROOT
from tests.integration.ranks import ENVIRONMENT, last_update

pytestmark = pytest.mark.launched

UPDATES = 40


class Job:
    """A job in the queue: the script under sbatch, with its arguments."""

    def __init__(self, folder: Path, *arguments: str, program: str = "") -> None:
        self.state, self.directory = folder / "state", folder / "run"
        self.state.mkdir()
        slurm.install(folder / "bin")
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        environment = {**os.environ, **ENVIRONMENT, "PATH": path, "STAND_IN_STATE": str(self.state)}
        environment |= {"PROGRAM": program} if program else {}
        options = ["--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=3", "launch/cluster/pretrain.sbatch"]
        command = ["sbatch", *options, *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)

    @property
    def log(self) -> str:
        return (self.state / "job.log").read_text()

    @property
    def requeued(self) -> int:
        path = self.state / "requeues"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert self.process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.01)

    def started(self, times: int) -> bool:
        starts = self.state / "starts"
        return starts.exists() and starts.read_text() == str(times) and (self.state / "tasks").exists()

    def preempt(self) -> None:
        """As Slurm does it: SIGUSR1 to all processes of all tasks."""
        for task in (self.state / "tasks").read_text().split():
            os.killpg(int(task), signal.SIGUSR1)


@pytest.fixture
def job(lab: Lab, tmp_path: Path) -> Iterator[Job]:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**Case(stage=1).recipe(lab.data(), tmp_path), "name": "run"}))
    changes = [f"schedule.duration={UPDATES} updates", "checkpoint.every=null", "data.workers=1"]
    job = Job(tmp_path, str(recipe), *changes)
    yield job
    tasks = job.state / "tasks"
    for pid in [job.process.pid, *(map(int, tasks.read_text().split()) if tasks.exists() else ())]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    job.process.wait()


def test_preempted_requeued_and_finished(job: Job) -> None:
    job.wait_for(lambda: last_update(job.directory) >= 3)
    assert (job.state / "cores").read_text() == "3", "srun must be told the cores of a task"
    job.preempt()
    job.wait_for(lambda: job.started(2))
    assert job.requeued == 1 and "stopped by a signal after update" in job.log
    stopped = last_update(job.directory)
    assert (job.directory / "checkpoints/latest").read_text().strip() == f"step-{stopped:08d}"

    time.sleep(1)  # Python is importing
    job.preempt()
    job.wait_for(lambda: job.started(3))
    assert job.requeued == 2
    assert last_update(job.directory) == stopped, "asked during its start, it ends before an update"
    assert f"stopped by a signal after update {stopped}" in job.log.rpartition("resuming from")[2]

    assert job.process.wait(300) == 0, job.log[-3000:]
    assert job.requeued == 2 and last_update(job.directory) == UPDATES
    assert "Traceback" not in job.log
    assert not list(ROOT.glob(".try-again-*"))


def test_a_signal_before_python_runs_is_requeued(job: Job) -> None:
    job.wait_for(lambda: job.started(1))
    job.preempt()
    job.wait_for(lambda: job.started(2))
    assert job.requeued == 1


def test_the_doctor_runs_on_all_ranks_of_a_job(tmp_path: Path) -> None:
    job = Job(tmp_path, f"--runs={tmp_path}", "--need-gb=0", program="tools/doctor.py")
    job.process.wait(300)
    assert "2 ranks" in job.log and "Traceback" not in job.log, job.log[-3000:]

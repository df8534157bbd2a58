"""Stand-ins for `sbatch`, `srun` and `scontrol`: what launch/cluster/pretrain.sbatch asks of Slurm, on one machine.

They keep to what Slurm 22.05 and later do: `srun` gives a task the cores of its own --cpus-per-task and no others, ends
all tasks by SIGTERM when one fails, and returns a task's death by signal rather than an exit status.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

JOB = "4711"


def main() -> None:
    tool, *arguments = sys.argv[1:]
    sys.exit({"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[tool](arguments))


def install(folder: Path) -> None:
    """Put the three commands into `folder`, for PATH."""
    folder.mkdir()
    for tool in ("sbatch", "srun", "scontrol"):
        path = folder / tool
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {tool} "$@"\n')
        path.chmod(0o755)


def state() -> Path:
    return Path(os.environ["STAND_IN_STATE"])


def sbatch(arguments: list[str]) -> int:
    """Run the script, and again as long as it is queued again; unlike Slurm's, return when the job is over."""
    given = leading_options(arguments)
    script, *rest = arguments[len(given) :]
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)", Path(script).read_text(), re.M)) | given
    tasks = int(asked["nodes"]) * int(asked["ntasks-per-node"])
    environment = {
        **os.environ,
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_NAME": asked["job-name"],
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NTASKS": str(tasks),
        "SLURM_NTASKS_PER_NODE": asked["ntasks-per-node"],
        "SLURM_CPUS_PER_TASK": asked["cpus-per-task"],
    }
    assert asked["signal"].startswith("USR1@") and "requeue" in asked and asked["open-mode"] == "append"
    requeued = state() / "requeue"
    starts = 0
    while True:
        starts += 1
        (state() / "starts").write_text(str(starts))
        with (state() / "job.log").open("a") as log:
            status = subprocess.run(["bash", script, *rest], env=environment, stdout=log, stderr=log).returncode
        if not requeued.exists():
            return status
        requeued.unlink()


def leading_options(arguments: list[str]) -> dict[str, str]:
    before = itertools.takewhile(lambda one: one.startswith("--"), arguments)
    return dict(one.removeprefix("--").split("=", 1) for one in before)


def srun(arguments: list[str]) -> int:
    options = leading_options(arguments)
    command = arguments[len(options) :]
    tasks = []
    for number in range(int(os.environ["SLURM_NTASKS"])):
        own = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
        own["STAND_IN_CORES"] = options.get("cpus-per-task", "1")
        tasks.append(subprocess.Popen(command, env={**os.environ, **own}, start_new_session=True))
    (state() / "cores").write_text(options.get("cpus-per-task", "1"))
    (state() / "tasks").write_text(" ".join(str(task.pid) for task in tasks))
    to_send = [signal.SIGTERM, signal.SIGKILL] if options.get("kill-on-bad-exit") == "1" else []
    due = 0.0
    while any(task.poll() is None for task in tasks):
        if to_send and time.monotonic() >= due and any(task.poll() for task in tasks):
            due, number = time.monotonic() + 30, to_send.pop(0)  # KillWait lies between the two
            for task in (task for task in tasks if task.poll() is None):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(task.pid, number)
        time.sleep(0.05)
    (state() / "tasks").unlink()
    statuses = [task.returncode for task in tasks]
    return 128 - min(statuses) if min(statuses) < 0 else max(statuses)


def scontrol(arguments: list[str]) -> int:
    if arguments[:2] == ["show", "hostnames"]:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as in any C program: `head` may have enough before
        print("127.0.0.1\n127.0.0.2")
    else:
        assert arguments == ["requeue", JOB], arguments
        (state() / "requeue").touch()
        with (state() / "requeues").open("a") as log:
            log.write("requeued\n")
    return 0


if __name__ == "__main__":
    main()

"""Small runs keep checkpoints too; one run is stopped and no other; a run directory says who has it."""

import json
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from megamini.training.checkpoints.manifest import verify
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import ROOT
from tests.integration.ranks import Ranks, last_update, pretrain, wait_for_update
from tests.integration.test_bad_steps import command

pytestmark = pytest.mark.launched

ENDLESS = "schedule.duration=1M updates"


def stop(*arguments: str) -> None:
    """`python tools/stop.py ARGUMENTS`, in this process."""
    sys.argv = ["tools/stop.py", *arguments]
    runpy.run_path(str(ROOT / "tools/stop.py"), run_name="__main__")


def stopped(run: Path, folder: Path) -> tuple[int, str]:
    """Status and output of the command."""
    with Ranks(stop, [str(run)], None, folder / "stop") as running:
        (code,) = running.wait(60)
        return code, running.printed()


def test_cases_checkpoints_by_time(lab: Lab, tmp_path: Path) -> None:
    """Of both ranks at the same updates, though only one looks at a clock; a kill costs no more than that."""
    directory, arguments = command(Case(stage=2), lab, tmp_path, ENDLESS, "checkpoint.every_minutes=0.02")
    latest = directory / "checkpoints" / "latest"
    with Ranks(pretrain, arguments, 2, tmp_path / "logs") as ranks:
        wait_for_update(directory, 1, ranks)
        names, deadline = set(), time.monotonic() + 60
        while len(names) < 3 and time.monotonic() < deadline:
            names |= {latest.read_text().strip()} if latest.exists() else set()
            time.sleep(0.05)
        assert len(names) == 3
        os.kill(ranks.pids[1], signal.SIGKILL)
        ranks.wait(60)
        plan = ranks.printed()
    assert "every 0.02 minutes (checkpoint.every_minutes), at the end and on a stop signal" in plan
    newest = directory / "checkpoints" / latest.read_text().strip()
    assert verify(newest)[1] is None
    update = int(newest.name.removeprefix("step-"))
    times = {line["update"]: line["time"] for line in map(json.loads, (directory / "metrics.jsonl").open())}
    assert times[max(times)] - times[update] < 1.2 + 20  # a busy machine saves slowly
    with Ranks(pretrain, [*arguments, f"schedule.duration={update + 2} updates"], 2, tmp_path / "logs") as ranks:
        assert ranks.wait() == [0, 0]
        assert f"resuming from checkpoint {newest.name}" in ranks.printed()


def test_cases_one_run_is_stopped_and_no_other(lab: Lab, tmp_path: Path) -> None:
    cases = {"one": Case(stage=1), "other": Case(stage=None, ranks=1)}
    runs = {}
    for name, case in cases.items():
        (tmp_path / name).mkdir()
        runs[name] = command(case, lab, tmp_path / name, ENDLESS)
    one, other = (directory for directory, _ in runs.values())
    with Ranks(pretrain, runs["one"][1], 2, tmp_path / "one/logs") as ranks:
        with Ranks(pretrain, runs["other"][1], None, tmp_path / "other/logs") as others:
            wait_for_update(one, 2, ranks)
            wait_for_update(other, 2, others)
            assert_said_who(one, ranks.pids[0])
            code, printed = stopped(one, tmp_path)
            assert code == 0 and f"(process {ranks.pids[0]} on {socket.gethostname()}, since 20" in printed
            assert ranks.wait(30) == [0, 0]
            at = last_update(one)
            assert f"stopped by request (tools/stop.py) after update {at};" in ranks.printed()
            assert (one / "checkpoints/latest").read_text().strip() == f"step-{at:08d}"
            wait_for_update(other, last_update(other) + 20, others)
    assert not {"stop", "running.json"} & {path.name for path in one.iterdir()}
    code, printed = stopped(one, tmp_path)
    assert (code, printed) == (2, f"error: {one}: nothing runs there\n")
    with Ranks(pretrain, runs["one"][1], 2, tmp_path / "one/logs") as ranks:  # the request is not for this one
        wait_for_update(one, at + 20, ranks)


def assert_said_who(run: Path, pid: int) -> None:
    holder = json.loads((run / "running.json").read_text())
    assert (holder["pid"], holder["host"]) == (pid, socket.gethostname())


def test_cases_a_second_run_of_a_name_hears_who_has_it(lab: Lab, tmp_path: Path) -> None:
    directory, arguments = command(Case(stage=None, ranks=1), lab, tmp_path, ENDLESS)
    with Ranks(pretrain, arguments, None, tmp_path / "logs") as first:
        wait_for_update(directory, 2, first)
        with Ranks(impatient, arguments, None, tmp_path / "second") as second:
            assert second.wait(60) == [2]
            (line,) = [line for line in second.printed().splitlines() if line.startswith("error: ")]
        who = f"(process {first.pids[0]} on {socket.gethostname()}, since 20"
        assert line.startswith(f"error: {directory}: another run writes there {who}")
        with Ranks(impatient, arguments, 2, tmp_path / "on-ranks") as ranks:  # none waits for a rank that has ended
            assert ranks.wait(120) == [2, 2], ranks.printed()
            printed = ranks.printed()
        assert printed.count("another run writes there") == 1 and "Traceback" not in printed
        assert first.alive()


def impatient(*arguments: str) -> None:
    with mock.patch("megamini.training.run._WAIT_FOR_OTHER_RUN", 1):
        pretrain(*arguments)


def test_cases_a_rank_with_another_recipe_ends_both(lab: Lab, tmp_path: Path) -> None:
    _, arguments = command(Case(stage=1), lab, tmp_path)
    with Ranks(other_seed_on_rank_1, arguments, 2, tmp_path / "logs") as ranks:
        assert ranks.wait(120) == [2, 2], ranks.printed()
        (line,) = [line for line in ranks.printed().splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: rank 1 on {socket.gethostname()} has another training.seed than rank 0 on")


def other_seed_on_rank_1(*arguments: str) -> None:
    pretrain(*arguments, *(["training.seed=99"] if os.environ["RANK"] == "1" else []))

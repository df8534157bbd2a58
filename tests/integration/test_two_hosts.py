"""Two hosts with two ranks each, by a hostfile: they train as four ranks on one, and outlive the loss of a host."""

import json
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.integration.cases import UPDATES, Case
from tests.integration.conftest import Lab
from tests.integration.hosts import missing, two_hosts
from tests.integration.launching import ROOT, read_scalars
from tests.integration.ranks import Ranks, last_update, pretrain

pytestmark = pytest.mark.launched

CASE = Case(stage=2, ranks=4)


def write(folder: Path, lab: Lab, updates: int, *, hang_minutes: float) -> list[str]:
    """Arguments of a run in `folder`."""
    folder.mkdir()
    recipe = CASE.recipe(lab.data(), folder) | {"name": "run", "checkpoint": {"every": "5 updates"}}
    recipe["training"]["hang_minutes"] = hang_minutes
    recipe["schedule"]["duration"] = f"{updates} updates"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "deepspeed.json").write_text(json.dumps({"zero_optimization": {"stage": CASE.stage}}))
    return [str(folder / "recipe.yaml"), "--deepspeed_config", str(folder / "deepspeed.json")]


def test_two_hosts(lab: Lab, tmp_path: Path, record_property) -> None:
    if reason := missing():
        pytest.skip(reason)
    arguments = write(tmp_path / "one", lab, UPDATES, hang_minutes=5)
    with Ranks(pretrain, arguments, CASE.ranks, tmp_path / "logs") as ranks:
        assert set(ranks.wait()) == {0}, ranks.printed()
    expected = read_scalars(tmp_path / "one" / "run")["train/loss"]

    with two_hosts(tmp_path / "hosts") as hosts:
        # The same losses as on one host.
        script, log = str(ROOT / "launch/pretrain.py"), tmp_path / "launcher.txt"
        run = hosts.deepspeed([script, *write(tmp_path / "two", lab, UPDATES, hang_minutes=5)], log)
        assert run.wait(240) == 0, log.read_text()[-3000:]
        losses = read_scalars(tmp_path / "two" / "run")["train/loss"]
        worst = max(abs(losses[update] / expected[update] - 1) for update in expected)
        record_property("worst_relative_difference", worst)
        assert losses.keys() == expected.keys()
        assert worst < 1e-6

        # One host is lost in the middle of a long run; the other notices, and leaves nothing behind.
        arguments, directory = (
            [script, *write(tmp_path / "long", lab, 100_000, hang_minutes=0.2)],
            tmp_path / "long" / "run",
        )
        run = hosts.deepspeed(arguments, log)
        wait_until(lambda: last_update(directory) >= 12, 240, log)
        before = hosts.processes("hostA")
        hosts.kill("hostB")
        assert run.wait(120) != 0
        ranks = [one for one in before if one.is_running() and "pretrain.py" in " ".join(cmdline(one))]
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert not alive, "ranks are left on the host that lives"

        # The same command goes on when it is back.
        reached = last_update(directory)
        hosts.boot("hostB")
        run = hosts.deepspeed(arguments, log)
        wait_until(lambda: "resuming from checkpoint step-" in log.read_text(errors="replace"), 240, log)
        wait_until(lambda: last_update(directory) > reached, 240, log)
        run.terminate()


def wait_until(happened, timeout: float, log: Path) -> None:
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []

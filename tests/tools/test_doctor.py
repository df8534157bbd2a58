"""The doctor names what is to mend, and is content with this environment."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from megamini.commands.checkup import checks
from megamini.errors import UserError
from megamini.training.engines import deepspeed_engine
from tests.integration.launching import ROOT, free_port, run_command
from tests.integration.ranks import Ranks


def test_this_environment_is_well(tmp_path):
    found = [checks._python(), *checks._packages(), checks._disk(tmp_path, 0.001), checks._writable(tmp_path)]
    assert all(one.ok for one in found), found


def test_what_is_to_mend_is_named(tmp_path, monkeypatch):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# tested\ntorch==1.0.0\nno-such-package==2.1\nnumpy==1.0  # a comment\n")
    monkeypatch.setattr(checks, "REQUIREMENTS", requirements)
    (finding,) = checks._packages()
    assert not finding.ok
    assert "torch is 2." in finding.says
    assert "no-such-package is missing (tested: 2.1)" in finding.says
    assert "pip install -r requirements.txt" in finding.says

    assert not checks._disk(tmp_path / "not" / "there", 1e9).ok
    (tmp_path / "file").write_text("")
    assert "choose another with training.runs" in checks._writable(tmp_path / "file").says

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (time.time() - 7200,) * 2)
    assert str(lock) in checks._locks().says


def test_without_a_checkout_the_packages_own_ranges_count(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "REQUIREMENTS", tmp_path / "none")
    needed = ["torch>=1,<3", 'deepspeed>=99; extra == "pretrain"', "numpy>=99"]
    monkeypatch.setattr(checks.importlib.metadata, "requires", lambda name: needed)
    (finding,) = checks._packages()
    assert not finding.ok
    assert "numpy is" in finding.says and "deepspeed" not in finding.says and "torch" not in finding.says
    del needed[2]
    (finding,) = checks._packages()
    assert finding.ok and "not all were tested together" in finding.says


@pytest.mark.launched
def test_two_ranks_under_the_launcher(tmp_path):
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--master_port", str(free_port())]
    command = ["tools/doctor.py", "--runs", str(tmp_path / "runs"), "--need-gb", "0.001"]
    done = run_command([*launcher, *command], timeout=120)
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ok", "MEND"))]
    assert any("collective: 2 ranks sum 4 MB" in line for line in lines)
    assert any("clocks: " in line for line in lines)
    assert any("memory of the device: can be used" in line for line in lines)
    assert all(line.startswith("ok") for line in lines)

    done = run_command([*launcher, *command[:-1], "1e9"], timeout=120)
    assert done.returncode == 2
    assert "error: 1 to mend: disk" in done.stdout


def look_with_a_fault(what: str) -> None:
    """As a rank, where rank 1 fails in a check that the others come to; prints what the ranks agree on."""

    def fail(*_):
        raise RuntimeError("CUDA error: out of memory")

    if os.environ["RANK"] == "1":
        setattr(checks, what, fail)
    checks._ANSWER = 10.0
    _, found = checks._together([])
    print([f"{one.what}: {one.says}" for one in found if not one.ok])
    os._exit(0)  # as `run_command` ends a rank


@pytest.mark.launched
@pytest.mark.parametrize("what", ["_sums_alone", "_sum_over_ranks"])
def test_a_check_that_fails_on_one_rank_ends_it_on_all(tmp_path, what):
    with Ranks(look_with_a_fault, (what,), 3, tmp_path) as running:
        assert running.wait(timeout=60) == [0, 0, 0], running.printed()
        for rank in range(3):
            assert "rank 1: CUDA error: out of memory" in running.printed(rank)


def test_a_rank_uses_the_gpu_of_its_number_before_it_joins_the_others(monkeypatch):
    """Else all of them would run collectives, and keep buffers, on the first one."""
    done = []
    monkeypatch.setenv("LOCAL_RANK", "5")
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "8")
    monkeypatch.setattr(deepspeed_engine, "on_cpu", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr("torch.cuda.set_device", lambda number: done.append(number))
    monkeypatch.setattr("deepspeed.init_distributed", lambda **_: done.append("joined"))
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 5)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(deepspeed_engine, "usable_cores", lambda: 24)
    threads = torch.get_num_threads()
    deepspeed_engine.start_process_group()
    own = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert done == [5, "joined"]
    assert own == 3, "of the cores that the ranks of a node share; DeepSpeed's CPU Adam takes them too"

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match=r"LOCAL_RANK 5: this process sees 1 GPU, .* not --gpus-per-task"):
        deepspeed_engine.start_process_group()


def test_the_slurm_script_is_a_shell_script():
    subprocess.run(["bash", "-n", str(ROOT / "launch/cluster/pretrain.sbatch")], check=True)

"""The doctor names what is to mend, and is content with this environment."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megamini.commands.checkup import checks
from tests.integration.launching import ROOT, free_port, run_command


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
    assert all(line.startswith("ok") for line in lines)

    done = run_command([*launcher, *command[:-1], "1e9"], timeout=120)
    assert done.returncode == 2
    assert "error: 1 to mend: disk" in done.stdout


def test_the_slurm_script_is_a_shell_script():
    subprocess.run(["bash", "-n", str(ROOT / "launch/cluster/pretrain.sbatch")], check=True)

"""The GPU check, dry: tiny shapes on the CPU, a page that says all, and one that says what was not reached."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megamini.training.engines import compiled
from tests.integration.launching import ROOT
from tools.gpu_checks import speed, wheels
from tools.gpu_checks.page import Page

QUICK = ("speed", "loss")


def check(out: Path, *options: str) -> tuple[subprocess.CompletedProcess, str]:
    command = [sys.executable, "tools/gpu_check.py", "--out", str(out), "--shape", "tiny", *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    page = max(out.glob("*.md"), key=lambda path: path.stat().st_mtime_ns)
    return done, page.read_text()


@pytest.mark.launched
def test_a_dry_run_writes_the_page(tmp_path: Path) -> None:
    done, page = check(tmp_path, "--minutes", "20", "--only", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"tiny_CPU_\d{4}-\d\d-\d\d-speed-loss\.md", next(tmp_path.glob("*.md")).name)
    assert "none failed" in page and "Not reached" not in page
    for row in ("versions", "mlm, fp32", "minijoint, fp32", "the library's Trainer, fp32", "relearning over 1 layers"):
        assert f"| {row}" in page
    assert "| check | ok | ms | tokens_per_second | planned_at_40_percent | MFU | peak_GB | planned_GB |" in page
    assert "Sizes(layers=4" in page, "the full configuration"


@pytest.mark.launched
@pytest.mark.all_combinations
@pytest.mark.timeout(3600)
def test_a_whole_dry_run(tmp_path: Path) -> None:
    done, page = check(tmp_path, "--minutes", "50")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none failed" in page and "Not reached" not in page
    for row in (
        "minijoint-bf16-muon",
        "minipost-fp32",
        "adapt-mini-bf16",
        "llama-bf16",
        "zero-3-fp32",
        "killed and resumed",
    ):
        assert f"| {row} | yes |" in page
    assert all(f"| {what}, beside the CPU | yes |" in page for what in ("minijoint", "mlm", "relearning"))
    assert list((tmp_path / "golden").glob("CPU-torch-*.json"))
    done, page = check(tmp_path, "--minutes", "20", "--only", "parity")
    assert done.returncode == 0 and "equal to those of CPU-torch" in page
    assert len(list(tmp_path.glob("tiny_CPU_*.md"))) == 2, "the page of a part leaves the whole one"


@pytest.mark.launched
def test_what_is_not_reached_is_said(tmp_path: Path) -> None:
    done, page = check(tmp_path, "--minutes", "0.01")
    sections = page.split("\n## ")[1:]  # a fast machine knows its environment, and the loss, all the same
    assert sum("not reached" in section for section in sections) >= 5, page
    assert done.returncode == 0


def test_a_failed_check_shows(tmp_path: Path) -> None:
    page = Page(tmp_path, "base", 10)
    page.begin("smoke")
    page.add("smoke", {"check": "one", "ok": True, "says": "a | b\nc", "hardware": "NVIDIA H100 80GB HBM3"})
    page.add("smoke", {"check": "two", "ok": False, "says": "loss 5 to nan"})
    text = page.path.read_text()
    assert page.path.name.startswith("base_NVIDIA-H100-80GB-HBM3_") and len(list(tmp_path.iterdir())) == 1
    assert "| two | **FAILED** | loss 5 to nan |" in text and "| one | yes | a / b c |" in text
    assert "2 checks, FAILED: smoke: two" in text
    page.begin("speed")
    assert "cut off here" in page.path.read_text()


def test_what_is_timed_compiled_is_compiled(monkeypatch) -> None:
    done = []
    monkeypatch.setattr(compiled, "compile_layers", lambda model, device: done.append(device.type))
    for wanted in (False, True):
        speed._pretraining(speed.SIZES["tiny"], "minijoint", "fp32", compile=wanted)()
    assert len(done) == 1


def test_wheels_are_the_pins_but_for_torch() -> None:
    names = [line.partition("==")[0] for line in wheels.wanted()]
    assert "torch" not in names and "transformers" in names and "deepspeed" in names

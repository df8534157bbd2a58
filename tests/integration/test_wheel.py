"""The built wheel, in an environment without the checkout: its command adapts, its library plugs."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.downstream.workplace import PROSE, make_primary
from tests.integration.launching import ROOT

pytestmark = [pytest.mark.launched, pytest.mark.all_combinations, pytest.mark.timeout(900)]
SOURCES = ("megamini", "launch", "ds_configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
PLUG = """
import sys, megamini
assert megamini.__file__.startswith(sys.prefix), megamini.__file__
model, tokenizer = megamini.load("primary")
before = {name: value.clone() for name, value in model.state_dict().items()}
with megamini.plugged(model, tokenizer, "runs/mine/packs/de") as german:
    assert len(german) == model.config.vocab_size == 410
assert all(value.equal(before[name]) for name, value in model.state_dict().items())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A virtual environment with the wheel, and by a path file the packages, but no megamini, of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", "out", "."], folder)
    (wheel,) = (folder / "out").glob("megamini-*.whl")
    home = folder / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(home)], folder)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run([*pip, "--python", str(home / "bin/python"), "install", "-q", "--no-deps", "--no-index", str(wheel)], folder)
    return home


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_wheel_adapts_and_plugs(environment, tmp_path):
    python, megamini = str(environment / "bin/python"), str(environment / "bin/megamini")
    make_primary(tmp_path / "primary")
    prepared = ["--vocab-size", "410", "--block-length", "32", "--validation-share", "0.2", "--processes", "1"]
    run([megamini, "prepare", "--text", str(PROSE), "--language", "de", "--out", "data", *prepared], tmp_path)
    changes = ["name=mine", "adaptation.source=primary", "data.path=data", "training.precision=fp32", "data.workers=0"]
    changes += ["schedule.duration=4 updates", "schedule.warmup=1 updates", "training.global_batch=4"]
    changes += ["training.micro_batch=4", "telemetry.validate_every=2 updates", "checkpoint.every=2 updates"]
    printed = run([megamini, "adapt", "my_language", *changes], tmp_path)
    assert "language pack: runs/mine/packs/de" in printed
    run([python, "-c", PLUG], tmp_path)
    run([megamini, "export", "primary", "german", "--pack", "runs/mine/packs/de"], tmp_path)
    assert "megamini adapt" in run([megamini, "--help"], tmp_path) + run([megamini, "adapt"], tmp_path)

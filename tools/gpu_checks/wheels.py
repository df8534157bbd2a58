"""Packages for a machine without a network: collected where there is one, installed beside what is there."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

_REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"
# A GPU's machine has its own build of these, and what they bring.
_THEIRS = {"torch"}


def wanted() -> list[str]:
    """The pinned requirements, but for what a GPU's machine has by itself."""
    lines = [line.split("#")[0].strip() for line in _REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "==" in line and _name(line) not in _THEIRS]


def collect(folder: Path) -> None:
    """Download them, each alone: their own requirements are among them, or come with PyTorch."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), *wanted()], check=True)


def install(folder: Path, target: Path) -> Path:
    """Install into `target`, from `folder` alone, what this Python lacks; returns `target`, for PYTHONPATH."""
    missing = [line for line in wanted() if not _is_there(_name(line))]
    if missing:
        options = ["--no-index", "--no-deps", "--find-links", str(folder), "--target", str(target)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *missing], check=True)
    return target


def _name(line: str) -> str:
    return line.partition("==")[0].partition("[")[0]


def _is_there(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

"""Entries of an evaluation's files, and which measurement each of them is of."""

from pathlib import Path
from typing import Any

MADE_FROM = "made_from"  # fingerprints of `model`, `pack` and `data`, in all but entries of earlier versions
_WHAT = ("task", "language", "metric", "pack", "seed", "split")


def key_of(entry: dict[str, Any]) -> tuple:
    """Which measurement of a plan it is, by the model's folder."""
    return (*_what(entry), resolved(entry["model"]))


def content_of(entry: dict[str, Any]) -> tuple:
    """What a measurement is made from, wherever its model lies: equal for two that give the same result."""
    return (*_what(entry), *sorted(entry.get(MADE_FROM, {}).items()))


def heading_of(entry: dict[str, Any]) -> dict[str, Any]:
    """What keys and contents are made of."""
    return {name: entry[name] for name in (*_WHAT, "model", MADE_FROM)}


def resolved(model: str) -> str:
    """One spelling of a folder."""
    return str(Path(model).resolve())


def _what(entry: dict[str, Any]) -> tuple:
    return tuple(entry[name] for name in _WHAT)

"""Checkpoints that are complete or do not exist.

A save writes into a folder of its own, lists every file with size and SHA-256 in a manifest, flushes all to disk, and
only then gives the folder its name; `latest` moves after that, and old checkpoints go last. So a kill at any moment
leaves the one before untouched.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megamini.data.blocks import fingerprint_of
from megamini.errors import UserError
from megamini.training.engines import Engine
from megamini.training.state import TrainState
from megamini.training.telemetry import write_atomically

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8})")

# What PyTorch's file writer names in its errors.
_WRITER = ("inline_container", "PytorchStreamWriter", "iostream error")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: the newest `keep_last`, and those at multiples of `keep_every` updates, are kept."""

    directory: Path
    keep_last: int
    identity: dict[str, Any]
    """What decides the numbers of a run; a checkpoint with another identity belongs to another run."""
    keep_every: int | None = None

    def save(self, engine: Engine, state: TrainState) -> None:
        """Write a checkpoint. *All ranks.*"""
        name = f"step-{state.update:08d}"
        aside, final = self.directory / f".{name}.writing", self.directory / name
        with _one_line_for_a_full_disk(final):
            if engine.rank == 0:
                for unfinished in self.directory.glob(".step-*.writing"):
                    shutil.rmtree(unfinished)
                shutil.rmtree(final, ignore_errors=True)  # only ever one that was found broken
                aside.mkdir(parents=True)
            engine.gather_objects(None)  # all ranks: the folder is there
            engine.save(aside)
            engine.gather_objects(None)  # all ranks: every file is written
            entries = _describe_files(aside, engine.rank, engine.world_size)
            listed = [entry for part in engine.gather_objects(entries) for entry in part]
            if engine.rank == 0:
                self._finish(aside, final, state, engine.world_size, listed)
            engine.gather_objects(None)  # all ranks: nobody runs ahead of a save that is not done

    def resume(self, engine: Engine, say: Callable[[str], None]) -> TrainState | None:
        """Load the newest complete checkpoint, saying which, and why others were skipped. *All ranks.*"""
        for path in newest_first(self.directory):
            manifest, problem = _read_manifest(path)
            if manifest is not None:
                own = _first_difference(path, manifest, engine.rank, engine.world_size)
                problem = next((found for found in engine.gather_objects(own) if found), None)
            if problem:
                say(f"skipping checkpoint {path.name}: {problem}")
                continue
            self._check_identity(path, manifest["identity"])
            if manifest["world_size"] != engine.world_size:
                raise UserError(
                    f"{path}: saved by {manifest['world_size']} ranks, this run has {engine.world_size}; start it with "
                    f"{manifest['world_size']}"
                )
            engine.load(path)
            say(f"resuming from checkpoint {path.name}")
            return TrainState.from_state_dict(manifest["state"])
        return None

    def _finish(self, aside: Path, final: Path, state: TrainState, world_size: int, files: list[dict]) -> None:
        """Rank 0 only: describe the files, flush, and give the folder its name."""
        content = {
            "state": state.state_dict(),
            "identity": self.identity,
            "world_size": world_size,
            "files": files,
        }
        manifest = {**content, "fingerprint": fingerprint_of(content)}
        write_atomically(aside / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        for folder in [aside, *(p for p in aside.rglob("*") if p.is_dir())]:
            _flush_directory(folder)
        aside.rename(final)
        _flush_directory(self.directory)
        write_atomically(self.directory / "latest", final.name + "\n")
        self._prune()

    def _check_identity(self, path: Path, saved: dict[str, Any]) -> None:
        """Raise `UserError` where the recipe or the data is not what the checkpoint was trained with."""
        own = json.loads(json.dumps(self.identity))
        if own["data"] != saved["data"]:
            raise UserError(f"data.path: not the data that {path} was trained on; give the run another name")
        for section in sorted(own):
            for key in own[section] if isinstance(own[section], dict) else ():
                before = saved[section].get(key)
                if own[section][key] != before:
                    raise UserError(
                        f"{section}.{key} is {own[section][key]}, but {path} was trained with {before}; give the run "
                        "another name"
                    )

    def _prune(self) -> None:
        for path in newest_first(self.directory)[self.keep_last :]:
            if not self.keep_every or int(_NAME.fullmatch(path.name)[1]) % self.keep_every:
                shutil.rmtree(path)


def newest_first(directory: Path) -> list[Path]:
    """Checkpoints in `directory`, complete or not, newest first."""
    return sorted((p for p in directory.iterdir() if is_checkpoint(p)), reverse=True) if directory.is_dir() else []


def is_checkpoint(path: Path) -> bool:
    """Whether a path bears a checkpoint's name."""
    return _NAME.fullmatch(path.name) is not None


def verify(path: Path) -> tuple[dict | None, str | None]:
    """The manifest of a checkpoint, and what is wrong with manifest or files (None: it is complete). One process."""
    manifest, problem = _read_manifest(path)
    if manifest is not None:
        problem = _first_difference(path, manifest, rank=0, world_size=1)
    return manifest, problem


def _describe_files(directory: Path, rank: int, world_size: int) -> list[dict]:
    """Name, size and SHA-256 of this rank's share of the files, which are flushed to disk on the way."""
    entries = []
    for path in _own_share(sorted(p for p in directory.rglob("*") if p.is_file()), rank, world_size):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entries.append({"file": str(path.relative_to(directory)), "bytes": path.stat().st_size, "sha256": digest})
    return entries


def _first_difference(directory: Path, manifest: dict, rank: int, world_size: int) -> str | None:
    """What is wrong with this rank's share of the files, or None."""
    for entry in _own_share(manifest["files"], rank, world_size):
        path = directory / entry["file"]
        if not path.is_file():
            return f"{entry['file']} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{entry['file']} has {path.stat().st_size} bytes instead of {entry['bytes']}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                return f"{entry['file']} does not have the checksum it was written with"
    return None


def _own_share(items: list, rank: int, world_size: int) -> list:
    """Each rank hashes every world_size-th file, so that no rank reads the whole checkpoint."""
    return items[rank::world_size]


def _read_manifest(directory: Path) -> tuple[dict | None, str | None]:
    """The manifest, or what is wrong with it."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        fingerprint = manifest.pop("fingerprint")
    except FileNotFoundError:
        return None, f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"{MANIFEST} cannot be read: {error}"
    if fingerprint != fingerprint_of(manifest):
        return None, f"{MANIFEST} does not have the checksum it was written with"
    return manifest, None


@contextlib.contextmanager
def _one_line_for_a_full_disk(path: Path) -> Iterator[None]:
    """Writing fails as OSError, or as a RuntimeError of PyTorch's file writer, which does not say why."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
    except RuntimeError as error:
        if not any(part in str(error) for part in _WRITER):
            raise
        reason = "the disk is full, or a quota or limit reached"
    else:
        return
    raise UserError(
        f"{path}: cannot be written: {reason}; free some space there and run the same command again: earlier "
        "checkpoints are whole"
    )


def _flush_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

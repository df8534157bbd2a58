"""Checkpoints that are complete or do not exist.

A save writes into a folder of its own, lists every file with size and SHA-256 in a manifest, flushes all to disk, and
only then gives the folder its name; `latest` moves after that, and old checkpoints go last. So a kill at any moment
leaves the one before untouched.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megamini.errors import UserError
from megamini.training.engines import Engine
from megamini.training.identity import check_identity
from megamini.training.manifest import describe_files, first_difference, list_files, read_manifest, write_manifest
from megamini.training.state import TrainState
from megamini.training.telemetry import write_atomically

_NAME = re.compile(r"step-(\d{8})")

# What PyTorch's file writer names in its errors.
_WRITER = ("inline_container", "PytorchStreamWriter", "iostream error")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: the newest `keep_last`, and those at multiples of `keep_every` updates, are kept."""

    directory: Path
    keep_last: int
    identity: dict[str, Any]
    """As `identity.identity_of` gives it."""
    keep_every: int | None = None

    def save(self, engine: Engine, state: TrainState) -> None:
        """Write a checkpoint. *All ranks.*"""
        name = f"step-{state.update:08d}"
        aside, final = self.directory / f".{name}.writing", self.directory / name
        with _one_line_for_a_full_disk(final):
            if engine.rank == 0:
                for unfinished in self.directory.glob(".step-*.writing"):
                    shutil.rmtree(unfinished)
                aside.mkdir(parents=True)
            engine.gather_objects(None)  # all ranks: the folder is there
            engine.save(aside)
            engine.gather_objects(None)  # all ranks: every file is written
            # All ranks: one listing, rank 0's, of which each hashes its share, so that no rank reads everything.
            names = _from_rank_0(engine, lambda: list_files(aside))
            shares = engine.gather_objects(describe_files(aside, names[engine.rank :: engine.world_size]))
            if engine.rank == 0:
                self._finish(aside, final, engine, state, [entry for share in shares for entry in share])
            engine.gather_objects(None)  # all ranks: nobody runs ahead of a save that is not done

    def resume(self, engine: Engine, say: Callable[[str], None]) -> TrainState | None:
        """Load the newest complete checkpoint, saying which, and why others were skipped. *All ranks.*

        All ranks go by what rank 0 sees of the folder. Broken checkpoints are set aside under another name, so that
        they do not count among those that are kept. Raises `UserError` where the newest complete one is another run's.
        """
        found, broken = None, []
        for path in _from_rank_0(engine, lambda: newest_first(self.directory)):
            manifest, problem = _from_rank_0(engine, lambda path=path: read_manifest(path))
            if manifest is not None:
                own = first_difference(path, manifest["files"][engine.rank :: engine.world_size])
                problem = next((text for text in engine.gather_objects(own) if text), None)
            if not problem:
                found = path, manifest
                break
            say(f"skipping checkpoint {path.name}: {problem} (kept as broken-{path.name})")
            broken.append(path)
        if found is not None:
            self._check_fits(engine, *found)
            engine.load(found[0])
        if engine.rank == 0:
            for path in broken:
                shutil.rmtree(path.with_name(f"broken-{path.name}"), ignore_errors=True)
                path.rename(path.with_name(f"broken-{path.name}"))
        if found is None:
            return None
        say(f"resuming from checkpoint {found[0].name}")
        return TrainState.from_state_dict(found[1]["state"])

    def _check_fits(self, engine: Engine, path: Path, manifest: dict[str, Any]) -> None:
        check_identity(self.identity, manifest["identity"], path)
        if manifest["world_size"] != engine.world_size:
            raise UserError(
                f"{path}: saved by {manifest['world_size']} ranks, this run has {engine.world_size}; start it with "
                f"{manifest['world_size']}"
            )
        if manifest["engine"] != engine.kind:
            raise UserError(
                f"{path}: saved with {manifest['engine']}, this run uses {engine.kind}; start it as before (the same "
                "--deepspeed_config), or give the run another name"
            )

    def _finish(self, aside: Path, final: Path, engine: Engine, state: TrainState, files: list[dict[str, Any]]) -> None:
        """Rank 0 only: describe the files, flush, and give the folder its name."""
        content = {
            "state": state.state_dict(),
            "identity": self.identity,
            "world_size": engine.world_size,
            "engine": engine.kind,
            "files": files,
        }
        write_manifest(aside, content)
        for folder in [aside, *(p for p in aside.rglob("*") if p.is_dir())]:
            _flush_directory(folder)
        shutil.rmtree(final, ignore_errors=True)  # only where resuming was turned off by hand
        aside.rename(final)
        _flush_directory(self.directory)
        write_atomically(self.directory / "latest", final.name + "\n")
        self._prune(state.update)

    def _prune(self, newest: int) -> None:
        """Delete what is neither among the newest nor to be kept for good, up to the one just saved."""
        kept = [path for path in newest_first(self.directory) if _update_of(path) <= newest]
        for path in kept[self.keep_last :]:
            if not self.keep_every or _update_of(path) % self.keep_every:
                shutil.rmtree(path)


def newest_first(directory: Path) -> list[Path]:
    """Checkpoints in `directory`, complete or not, newest first."""
    return sorted((p for p in directory.iterdir() if is_checkpoint(p)), reverse=True) if directory.is_dir() else []


def is_checkpoint(path: Path) -> bool:
    """Whether a path bears a checkpoint's name."""
    return _NAME.fullmatch(path.name) is not None


def _update_of(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])


def _from_rank_0(engine: Engine, look: Callable[[], Any]) -> Any:
    """What rank 0 sees. *All ranks*: their views of a shared file system may differ for seconds."""
    return engine.gather_objects(look() if engine.rank == 0 else None)[0]


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

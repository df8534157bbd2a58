"""Checkpoints that are complete or do not exist: saved, pruned, and the newest one found again.

A save copies what is to be saved, and writes it in the background into a folder of its own (`background_save`). When
every rank's file is on disk, rank 0 lists them with size and SHA-256 in a manifest, and only then gives the folder its
name; `latest` moves after that, and old checkpoints go last. So a kill at any moment leaves the one before untouched.
"""

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from megamini.files import flush_directory, write_atomically
from megamini.training.checkpoints.background_save import BackgroundSave, one_line_for_a_full_disk
from megamini.training.checkpoints.identity import check_identity
from megamini.training.checkpoints.manifest import first_difference, read_manifest, write_manifest
from megamini.training.engines.engine import Engine
from megamini.training.state.shards import Shards, Slice
from megamini.training.state.train_state import TrainState

_NAME = re.compile(r"step-(\d{8})")
_LATEST = "latest"  # the file that names the newest complete one, for people and scripts, and to miss one that is gone


class Checkpoints:
    """The checkpoints of one run: the newest `keep_last`, and those at multiples of `keep_every` updates, are kept.

    identity: as `identity.identity_of` gives it. defaults: as `identity.defaults_of` does.
    """

    def __init__(
        self,
        directory: Path,
        keep_last: int,
        identity: dict[str, Any],
        keep_every: int | None = None,
        defaults: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.directory, self._defaults = directory, defaults
        self._keep_last, self._identity, self._keep_every = keep_last, identity, keep_every
        self._save: BackgroundSave | None = None

    def begin(self, engine: Engine, state: TrainState) -> None:
        """Start to write a copy of the moment, which later updates do not touch; `finish` waits for it. *All ranks.*

        Where the one before is still being written, that is waited for, and so is this one where there is no room for
        a copy, since states lie on disk. Raises `UserError` where it failed.
        """
        if engine.states_on_disk:
            self.save(engine, state)
            return
        self.finish(engine)
        self._start(engine, state, [[one.snapshot() for one in part] for part in engine.parts()])

    def save(self, engine: Engine, state: TrainState) -> None:
        """Write a checkpoint from where the state lies, without a copy, and wait for it. *All ranks.*"""
        self.finish(engine)
        self._start(engine, state, engine.parts())
        self.finish(engine)

    def _start(self, engine: Engine, state: TrainState, parts: Iterable[list[Slice]]) -> None:
        name = f"step-{state.update:08d}"
        aside, final = self.directory / f".{name}.writing", self.directory / name
        with one_line_for_a_full_disk(final):
            if engine.rank == 0:
                for unfinished in self.directory.glob(".step-*.writing"):
                    shutil.rmtree(unfinished)
                aside.mkdir(parents=True)
        engine.gather_objects(None)  # all ranks: the folder is there
        content = {"state": state.state_dict(), "identity": self._identity, "scaler": engine.scaler_state()}
        self._save = BackgroundSave(aside, engine.rank, engine.world_size, parts)
        self._save.start(lambda files: self._publish(aside, final, state.update, {**content, "files": files}))

    def finish(self, engine: Engine) -> None:
        """Wait until the checkpoint that was begun is complete. *All ranks.* Raises `UserError` where it failed."""
        if self._save is not None:
            self._save.wait()
            self._save = None
        engine.gather_objects(None)  # all ranks: nobody runs ahead of a save that is not done

    def any(self) -> bool:
        """Whether there is one to go back to, complete or about to be."""
        return self._save is not None or bool(newest_first(self.directory))

    def poll(self) -> None:
        """Raise the `UserError` of a save that has failed in the meantime; else nothing. This rank alone."""
        if self._save is not None:
            self._save.poll()

    def abandon(self) -> None:
        """Stop waiting for other ranks, as the run ends early; what is not complete does not count."""
        if self._save is not None:
            self._save.abandon()

    def resume(self, engine: Engine, say: Callable[[str], None]) -> TrainState | None:
        """Load the newest complete checkpoint, saying which, and why others were skipped. *All ranks.*

        All ranks go by what rank 0 sees of the folder. Broken checkpoints are set aside under another name, so that
        they do not count among those that are kept. Where the newest that was ever completed is gone, that is said.
        Raises `UserError` where the newest complete one is another run's.
        """
        if lost := _from_rank_0(engine, self._lost):
            say(f"checkpoint {lost}, the newest that this run completed, is gone from {self.directory}")
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
            check_identity(self._identity, found[1]["identity"], found[0], self._defaults)
            engine.load(Shards(found[0], engine.rank))
            engine.set_scaler_state(found[1].get("scaler", {}))
        if engine.rank == 0:
            for path in broken:
                shutil.rmtree(path.with_name(f"broken-{path.name}"), ignore_errors=True)
                path.rename(path.with_name(f"broken-{path.name}"))
        if found is None:
            return None
        say(f"resuming from checkpoint {found[0].name}")
        return TrainState.from_state_dict(found[1]["state"])

    def _publish(self, aside: Path, final: Path, update: int, content: dict[str, Any]) -> None:
        """Rank 0 only, when all files are on disk: describe them, and give the folder its name."""
        write_manifest(aside, content)
        flush_directory(aside)
        shutil.rmtree(final, ignore_errors=True)  # only where resuming was turned off by hand
        aside.rename(final)
        flush_directory(self.directory)
        write_atomically(self.directory / _LATEST, final.name + "\n")
        self._prune(update)

    def _lost(self) -> str | None:
        """The checkpoint that `latest` names, where it is not there; one that was set aside as broken is."""
        try:
            name = (self.directory / _LATEST).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        there = any((self.directory / f"{mark}{name}").is_dir() for mark in ("", "broken-"))
        return name if is_checkpoint(Path(name)) and not there else None

    def _prune(self, newest: int) -> None:
        """Delete what is neither among the newest nor to be kept for good, up to the one just saved."""
        kept = [path for path in newest_first(self.directory) if _update_of(path) <= newest]
        for path in kept[self._keep_last :]:
            if not self._keep_every or _update_of(path) % self._keep_every:
                shutil.rmtree(path)


def newest_first(directory: Path) -> list[Path]:
    """Checkpoints in `directory`, complete or not, newest first."""
    return sorted((p for p in directory.iterdir() if is_checkpoint(p)), reverse=True) if directory.is_dir() else []


def is_checkpoint(path: Path) -> bool:
    """Whether a path bears a checkpoint's name."""
    return _NAME.fullmatch(path.name) is not None


def _update_of(path: Path) -> int:
    return int(_NAME.fullmatch(path.name)[1])


def _from_rank_0(engine: Engine, read: Callable[[], Any]) -> Any:
    """What rank 0 sees. *All ranks*: their views of a shared file system may differ for seconds."""
    return engine.gather_objects(read() if engine.rank == 0 else None)[0]

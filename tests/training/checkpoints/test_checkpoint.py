"""Checkpoints are complete or do not exist: what is damaged is named and skipped, and a kill leaves a usable one."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from megamini.errors import UserError
from megamini.training.checkpoints import background_save
from megamini.training.checkpoints.background_save import BackgroundSave
from megamini.training.checkpoints.checkpoint import Checkpoints, newest_first
from megamini.training.checkpoints.manifest import MANIFEST, verify
from megamini.training.state.shards import Shards, Slice, write_slices
from megamini.training.state.train_state import TrainState

IDENTITY = {"data": "fingerprint", "model": {"family": "bert", "exits": [2]}, "training": {"seed": 3}}
FILES = ("state-00000.safetensors", "state-00001.safetensors")
LARGE = 2**18
# What a save does to the disk, as Python's audit events name it.
DISK_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


class Meeting:
    """Where two ranks, each a thread, exchange objects."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.held = [None, None]

    def gather(self, rank: int, value: Any) -> list[Any]:
        self.held[rank] = value
        self.barrier.wait(60)
        values = list(self.held)
        self.barrier.wait(60)
        return values


class HalfEngine:
    """One of two ranks, each of which holds half of one parameter."""

    world_size = 2
    states_on_disk = False

    def __init__(self, rank: int, meeting: Meeting, numel: int = 1000) -> None:
        self.rank, self.meeting, self.numel, self.value = rank, meeting, numel, 0
        self.loaded: torch.Tensor | None = None

    def gather_objects(self, value: Any) -> list[Any]:
        return self.meeting.gather(self.rank, value)

    def parts(self) -> Iterator[list[Slice]]:
        start = self.rank * self.numel
        own = content(self.value, 2 * self.numel)[start : start + self.numel]
        yield [Slice("embeddings", start, {"weight": own})]

    def load(self, shards: Shards) -> None:
        self.loaded = shards.read("weight", "embeddings", self.rank * self.numel, self.numel)

    def scaler_state(self) -> dict[str, float]:
        return {"cur_scale": 2.0**16}

    def set_scaler_state(self, values: dict[str, float]) -> None:
        assert values == {"cur_scale": 2.0**16}


def content(value: int, numel: int) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(value))


def both(work: Callable[[HalfEngine], Any], numel: int = 1000) -> list[Any]:
    """What `work` returns on each rank; raises what rank 0 raises, else what rank 1 does."""
    meeting = Meeting()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(work, HalfEngine(rank, meeting, numel)) for rank in range(2)]
        for one in waiting:
            if one.exception(120):
                meeting.barrier.abort()
        return [one.result() for one in waiting]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def save(folder: Path, *updates: int, keep_last: int = 9, keep_every: int | None = None, numel: int = 1000) -> None:
    def work(engine: HalfEngine) -> None:
        checkpoints = Checkpoints(folder, keep_last, IDENTITY, keep_every)
        for update in updates:
            engine.value = update
            checkpoints.save(engine, TrainState(update=update, tokens=10 * update, skipped=1))

    both(work, numel)


def resume(
    folder: Path, identity: dict[str, Any] = IDENTITY, numel: int = 1000
) -> tuple[TrainState | None, torch.Tensor | None, list[str]]:
    """The state, what both ranks have loaded, and what rank 0 has said."""
    said: list[str] = []

    def work(engine: HalfEngine) -> tuple[TrainState | None, torch.Tensor | None]:
        say = said.append if engine.rank == 0 else lambda _: None
        return Checkpoints(folder, 9, identity).resume(engine, say), engine.loaded

    (state, first), (other, second) = both(work, numel)
    assert state == other
    return state, None if first is None else torch.cat([first, second]), said


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def latest(folder: Path) -> str:
    return (folder / "latest").read_text().strip()


def test_saved_is_loaded(folder: Path) -> None:
    save(folder, 4, 8)
    state, loaded, said = resume(folder)
    assert state == TrainState(update=8, tokens=80, skipped=1)
    assert torch.equal(loaded, content(8, 2000))
    assert said == ["resuming from checkpoint step-00000008"]
    assert names(folder) == ["latest", "step-00000004", "step-00000008"]
    assert latest(folder) == "step-00000008"


def test_nothing_to_resume(folder: Path) -> None:
    assert resume(folder)[0] is None
    folder.mkdir()
    assert resume(folder)[0] is None


def test_manifest_lists_every_file(folder: Path) -> None:
    save(folder, 4)
    manifest = json.loads((folder / "step-00000004" / MANIFEST).read_text())
    sizes = {name: (folder / "step-00000004" / name).stat().st_size for name in FILES}
    assert {entry["file"]: entry["bytes"] for entry in manifest["files"]} == sizes
    assert min(sizes.values()) > 4000


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1 << bit
    path.write_bytes(damaged)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped bit": (
        lambda step: flip_bit(step / FILES[1], 567, bit=5),
        f"{FILES[1]} does not have the checksum it was written with",
    ),
    "cut file": (lambda step: os.truncate(step / FILES[0], 999), f"{FILES[0]} has 999 bytes instead of"),
    "empty file": (lambda step: os.truncate(step / FILES[0], 0), f"{FILES[0]} has 0 bytes instead of"),
    "missing shard": (lambda step: (step / FILES[1]).unlink(), f"{FILES[1]} is missing"),
    "missing manifest": (lambda step: (step / MANIFEST).unlink(), "manifest.json is missing"),
    "cut manifest": (lambda step: os.truncate(step / MANIFEST, 300), "manifest.json cannot be read"),
    "empty manifest": (lambda step: os.truncate(step / MANIFEST, 0), "manifest.json cannot be read"),
    "unlisted file": (
        lambda step: (step / "extra.safetensors").write_bytes(b"x"),
        "extra.safetensors is not in its manifest",
    ),
    "other manifest": (lambda step: (step / MANIFEST).write_text("[]\n"), "manifest.json cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_is_named_and_skipped(damage: str, folder: Path) -> None:
    save(folder, 4, 8)
    inflict, words = DAMAGES[damage]
    inflict(folder / "step-00000008")
    state, loaded, said = resume(folder)
    assert state.update == 4
    assert torch.equal(loaded, content(4, 2000))
    assert len(said) == 2
    assert said[0].startswith(f"skipping checkpoint step-00000008: {words}")
    assert said[1] == "resuming from checkpoint step-00000004"


def test_any_bit_of_the_manifest(folder: Path) -> None:
    """Its numbers decide how a run goes on, so that no byte of it may change unnoticed."""
    save(folder, 4)
    path = folder / "step-00000004" / MANIFEST
    whole, draw = path.read_bytes(), random.Random(0)
    before = json.loads(whole)
    for position in range(len(whole)):
        flip_bit(path, position, draw.randrange(8))
        try:
            harmless = json.loads(path.read_bytes()) == before  # white space between values
        except ValueError:
            harmless = False
        problem = verify(path.parent)[1]
        assert harmless or (problem and problem.startswith(MANIFEST)), (position, path.read_bytes()[position])
        path.write_bytes(whole)
    assert verify(path.parent)[1] is None


def test_all_damaged(folder: Path) -> None:
    save(folder, 4, 8)
    for step in newest_first(folder):
        flip_bit(step / FILES[0], 1)
    state, loaded, said = resume(folder)
    assert state is None
    assert loaded is None
    assert len(said) == 2


def test_what_is_saved_after_damage_is_kept(folder: Path) -> None:
    """Broken checkpoints with higher numbers must not push out the ones that the resumed run writes."""
    save(folder, 4, 8, 12, 16)
    for update in (12, 16):
        flip_bit(folder / f"step-{update:08d}" / FILES[0], 1)
    assert resume(folder)[0].update == 8
    save(folder, 10, keep_last=1)
    assert names(folder) == ["broken-step-00000012", "broken-step-00000016", "latest", "step-00000010"]
    assert latest(folder) == "step-00000010"
    assert resume(folder)[0].update == 10


def test_a_refused_run_changes_nothing(folder: Path) -> None:
    save(folder, 4, 8)
    flip_bit(folder / "step-00000008" / FILES[0], 1)
    before = names(folder)
    with pytest.raises(UserError):
        resume(folder, {**IDENTITY, "data": "other"})
    assert names(folder) == before


def test_damaged_is_replaced_by_the_next_save_of_its_update(folder: Path) -> None:
    save(folder, 4, 8)
    flip_bit(folder / "step-00000008" / FILES[0], 1)
    save(folder, 8)
    assert resume(folder)[0].update == 8


def test_leftovers_of_a_killed_save(folder: Path) -> None:
    save(folder, 4)
    unfinished = folder / ".step-00000008.writing"
    unfinished.mkdir(parents=True)
    (unfinished / FILES[0]).write_bytes(b"torn")
    assert resume(folder)[0].update == 4
    save(folder, 8)
    assert names(folder) == ["latest", "step-00000004", "step-00000008"]
    assert torch.equal(resume(folder)[1], content(8, 2000))


def test_a_newest_one_that_is_gone_is_said(folder: Path) -> None:
    save(folder, 4, 8)
    shutil.rmtree(folder / "step-00000008")
    state, _, said = resume(folder)
    assert state.update == 4
    assert said[0] == f"checkpoint step-00000008, the newest that this run completed, is gone from {folder}"
    shutil.rmtree(folder / "step-00000004")
    assert resume(folder)[2] == said[:1]  # starts anew, and not in silence


def test_retention(folder: Path) -> None:
    save(folder, *range(2, 21, 2), keep_last=2, keep_every=6)
    kept = [f"step-{update:08d}" for update in (6, 12, 18, 20)]
    assert names(folder) == ["latest", *kept]
    assert all(verify(folder / name)[1] is None for name in kept)


def test_retention_without_landmarks(folder: Path) -> None:
    save(folder, *range(1, 8), keep_last=3)
    assert names(folder) == ["latest", *(f"step-{update:08d}" for update in (5, 6, 7))]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"data": "other"}, "data.path"),
        ({"model": {"family": "roberta", "exits": [2]}}, "model.family"),
        ({"model": {"family": "bert", "exits": [2, 3]}}, "model.exits"),
        ({"training": {"seed": 4}}, "training.seed"),
    ],
)
def test_another_run_is_refused(changed: dict[str, Any], key: str, folder: Path) -> None:
    save(folder, 4)
    with pytest.raises(UserError, match=rf"^{key}\b.*step-00000004.*another name"):
        resume(folder, {**IDENTITY, **changed})


def test_a_rank_that_cannot_write_is_named_by_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1's disk is full: rank 0 says so too, and the checkpoint before stays the newest."""
    save(folder, 4)

    def write(directory: Path, rank: int, slices: list[Slice], part: int) -> Path:
        if rank == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_slices(directory, rank, slices, part)

    monkeypatch.setattr(background_save, "write_slices", write)
    with pytest.raises(
        UserError, match=r"cannot be written: No space left on device; .* earlier checkpoints are whole"
    ):
        save(folder, 8)
    assert resume(folder)[0].update == 4


def test_an_error_of_any_kind_is_no_silent_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(directory: Path, rank: int, slices: list[Slice], part: int) -> Path:
        raise RuntimeError("some tensors share memory")

    monkeypatch.setattr(background_save, "write_slices", write)
    with pytest.raises(RuntimeError, match="share memory"):
        save(folder, 4)


def test_a_save_does_not_see_later_updates(folder: Path) -> None:
    def work(engine: HalfEngine) -> None:
        checkpoints = Checkpoints(folder, 9, IDENTITY)
        engine.value = 4
        held = next(engine.parts())[0].tensors["weight"]
        engine.parts = lambda: iter([[Slice("embeddings", engine.rank * 1000, {"weight": held})]])
        checkpoints.begin(engine, TrainState(update=4))
        held.zero_()
        checkpoints.finish(engine)

    both(work)
    assert torch.equal(resume(folder)[1], content(4, 2000))


def test_states_on_disk_are_saved_one_part_after_the_other(folder: Path) -> None:
    """A part is gone when the next is asked for, so that nothing may copy all or write behind the updates."""

    def work(engine: HalfEngine) -> None:
        engine.value, engine.states_on_disk = 4, True
        start, buffer = engine.rank * engine.numel, torch.empty(250)
        own = content(4, 2000)[start : start + 1000]

        def parts() -> Iterator[list[Slice]]:
            for row in range(0, 1000, 250):
                buffer.copy_(own[row : row + 250])
                yield [Slice("embeddings", start + row, {"weight": buffer})]
            buffer.zero_()

        engine.parts = parts
        checkpoints = Checkpoints(folder, 9, IDENTITY)
        checkpoints.begin(engine, TrainState(update=4))
        assert newest_first(folder) == [folder / "step-00000004"]

    both(work)
    assert len(list((folder / "step-00000004").glob("state-*.safetensors"))) == 8
    assert torch.equal(resume(folder)[1], content(4, 2000))


def test_a_run_that_ends_early_does_not_wait_for_other_ranks(folder: Path) -> None:
    """Rank 1 never writes its part; rank 0 gives up when it is told to, and nothing counts as a checkpoint."""
    (folder / ".step-00000004.writing").mkdir(parents=True)
    one = BackgroundSave(folder / ".step-00000004.writing", 0, 2, [[Slice("a", 0, {"weight": torch.ones(3)})]])
    one.start(lambda files: pytest.fail("published"))
    one.abandon()
    assert names(folder) == [".step-00000004.writing"]


def test_unwritable_folder_is_one_line(folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file, no folder")
    with pytest.raises(UserError, match=r"step-00000004: cannot be written"):
        save(folder, 4)


def in_a_child(work: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    child.start()
    return child


def assert_usable(folder: Path, numel: int = 1000) -> tuple[int, list[str]]:
    """The newest complete checkpoint loads, and `latest` names it or the one before it, which is complete too.

    Returns the update it is of, and what was said of others.
    """
    state, loaded, said = resume(folder, numel=numel)
    assert torch.equal(loaded, content(state.update, 2 * numel))
    assert verify(folder / latest(folder))[1] is None
    assert int(latest(folder).removeprefix("step-")) in (state.update, state.update - 1)
    return state.update, said[:-1]


def test_killed_at_ten_random_moments(folder: Path) -> None:
    """A process that saves without end, killed with SIGKILL; each starts behind what the last one has left."""
    draw, update, inside = random.Random(0), 0, 0
    for _ in range(10):
        first = update + 1
        child = in_a_child(save_for_ever, folder, first)
        while not (folder / f"step-{first:08d}").exists():
            assert child.is_alive()
            time.sleep(0.001)
        time.sleep(delay := draw.uniform(0, 0.3))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        inside += any(name.endswith(".writing") for name in names(folder))
        update, skipped = assert_usable(folder, LARGE)
        print(f"killed {delay:.3f} s behind a save; the newest complete checkpoint is that of update {update}")
        assert update >= first
        assert not skipped, "a torn checkpoint bears a name"
    assert inside, "no kill hit a save"


def save_for_ever(folder: Path, first: int) -> None:
    save(folder, *range(first, first + 10**5), keep_last=2, numel=LARGE)


def test_killed_at_every_touch_of_the_disk(folder: Path) -> None:
    """A save that replaces a damaged checkpoint and prunes an old one, killed before each of its operations in turn."""
    outcomes = []
    while not outcomes or outcomes[-1][0] != 0:
        shutil.rmtree(folder, ignore_errors=True)
        save(folder, 1, 2, 3)
        (folder / "step-00000003" / FILES[0]).unlink()
        (folder / "latest").write_text("step-00000002\n")
        child = in_a_child(save_and_die, folder, len(outcomes))
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        outcomes.append((child.exitcode, *assert_usable(folder)))
    used = [update for _, update, _ in outcomes]
    assert used == sorted(used)
    assert set(used) == {2, 3}
    assert used.count(2) > 10
    assert used.count(3) > 2


def save_and_die(folder: Path, touches: int) -> None:
    """Save update 3, and be killed where the disk is touched for the time number `touches` from 0."""
    left = touches

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in DISK_EVENTS and str(folder) in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    save(folder, 3, keep_last=2)

"""Slices that some ranks wrote are read by any others, and what is missing or torn is named."""

import os
import time
from pathlib import Path

import pytest
import torch

from megamini.errors import UserError
from megamini.training.engines.build_locks import refuse_stale_build_lock, stale_build_locks
from megamini.training.state.shards import MOMENTS, STEP, WEIGHT, Shards, Slice, file_of, write_slices

NUMEL = 103


def whole(name: str, kind: str) -> torch.Tensor:
    return torch.randn(NUMEL, generator=torch.Generator().manual_seed(hash((name, kind)) % 2**31))


def write(folder: Path, ranks: int, names: tuple[str, ...] = ("a", "b:c")) -> None:
    """All parameters end to end, cut into equal parts for the ranks; moments too, at step 7."""
    total = NUMEL * len(names)
    for rank in range(ranks):
        low, high = total * rank // ranks, total * (rank + 1) // ranks
        slices = []
        for row, name in enumerate(names):
            start, end = max(0, low - row * NUMEL), min(NUMEL, high - row * NUMEL)
            if start < end:
                tensors = {kind: whole(name, kind)[start:end] for kind in (WEIGHT, *MOMENTS)}
                slices.append(Slice(name, start, {**tensors, STEP: torch.tensor([7.0])}))
        write_slices(folder, rank, slices)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_any_ranks_read_what_others_wrote(ranks: int, readers: int, tmp_path: Path) -> None:
    write(tmp_path, ranks)
    for rank in range(readers):
        shards = Shards(tmp_path, rank)
        start, end = NUMEL * rank // readers, NUMEL * (rank + 1) // readers
        for name in ("b:c", "a"):
            for kind in (WEIGHT, *MOMENTS):
                assert torch.equal(shards.read(kind, name, start, end - start), whole(name, kind)[start:end])
            assert shards.step(name).tolist() == [7.0]
        assert shards.names() == {"a", "b:c"}


def test_a_rank_opens_no_other_file_than_it_needs(tmp_path: Path) -> None:
    write(tmp_path, 4)
    for rank in (0, 1, 3):
        file_of(tmp_path, rank).write_bytes(b"torn")
    shards = Shards(tmp_path, rank=2)
    start = 2 * NUMEL * 2 // 4 - NUMEL
    assert torch.equal(shards.read(WEIGHT, "b:c", start, 20), whole("b:c", WEIGHT)[start : start + 20])
    with pytest.raises(UserError, match=r"state-0000\d.safetensors: not a whole file"):
        shards.read(WEIGHT, "a", 0, 5)


def test_a_rank_reads_all_parts_of_its_own(tmp_path: Path) -> None:
    """States on disk are written in parts; the other rank's file is torn, and not asked for."""
    for part, start in enumerate((0, 40)):
        slices = [Slice("a", start, {WEIGHT: whole("a", WEIGHT)[start : start + 40]})]
        assert write_slices(tmp_path, 1, slices, part) == file_of(tmp_path, 1, part)
    file_of(tmp_path, 0).write_bytes(b"torn")
    assert torch.equal(Shards(tmp_path, rank=1).read(WEIGHT, "a", 10, 60), whole("a", WEIGHT)[10:70])


def test_what_the_optimizer_never_moved_has_no_moments(tmp_path: Path) -> None:
    write_slices(tmp_path, 0, [Slice("a", 0, {WEIGHT: whole("a", WEIGHT)})])
    shards = Shards(tmp_path)
    assert shards.read(MOMENTS[0], "a", 0, NUMEL) is None
    assert shards.step("a") is None


@pytest.mark.parametrize(("name", "start", "numel"), [("z", 0, 4), ("a", 100, 4), ("a", 0, NUMEL + 1)])
def test_what_is_missing_is_named(name: str, start: int, numel: int, tmp_path: Path) -> None:
    write(tmp_path, 2)
    with pytest.raises(UserError, match=f"holds no '{name}' of that size"):
        Shards(tmp_path).read(WEIGHT, name, start, numel)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write(tmp_path, 3)
    file_of(tmp_path, 1).unlink()
    with pytest.raises(UserError, match="holds no 'a' of that size"):
        Shards(tmp_path).read(WEIGHT, "a", 0, NUMEL)


def test_a_folder_without_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no training state"):
        Shards(tmp_path)


def test_stale_build_locks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name, age in (("cpu_adam", 3600), ("fused_adam", 10)):
        (tmp_path / "py311_cpu" / name).mkdir(parents=True)
        lock = tmp_path / "py311_cpu" / name / "lock"
        lock.touch()
        os.utime(lock, (time.time() - age,) * 2)
    assert [lock.parent.name for lock in stale_build_locks()] == ["cpu_adam"]
    refuse_stale_build_lock("fused_adam")
    with pytest.raises(UserError, match=r"cpu_adam/lock: left by a build that was killed"):
        refuse_stale_build_lock("cpu_adam")

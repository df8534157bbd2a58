"""A run that is killed or stopped, and started again, ends as if nothing had happened: bit for bit.

Dropout is on and each rank has two loader workers. Compared are all tensors of the last checkpoint (weights, masters,
moments and step counters of every rank), and every scalar of every update in `metrics.jsonl` and TensorBoard.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megamini.errors import TRY_AGAIN
from megamini.training.checkpoints.checkpoint import newest_first
from megamini.training.checkpoints.manifest import verify
from tests.integration.cases import Case
from tests.integration.conftest import Lab
from tests.integration.launching import ROOT, free_port, read_scalars
from tests.integration.ranks import ENVIRONMENT, Ranks, gone, last_update, pretrain, wait_for_update

pytestmark = pytest.mark.launched

UPDATES, SAVE_EVERY = 48, 4
# How a run is interrupted, and between which updates: long before its end, so that a slow machine cannot miss it.
INTERRUPTIONS = {"SIGKILL": (5, 9), "SIGUSR1": (14, 18), "SIGTERM": (24, 28)}
# What two equal runs may differ in.
WALL_CLOCK = ("train/tokens_per_second", "train/mfu", "train/waiting_for_data")

MATRIX = [
    Case(stage=stage, precision=precision, accumulation=2) for stage, precision in product((1, 2, 3), ("fp32", "bf16"))
]
MUON = [
    Case(stage=stage, precision=precision, accumulation=2, muon=True)
    for stage, precision in product((1, 2, 3), ("fp32", "bf16"))
]
PLAIN = [Case(stage=None, ranks=1, precision=precision, accumulation=2) for precision in ("fp32", "bf16")]


@dataclass(frozen=True)
class Run:
    """A command line and the run directory it writes to."""

    directory: Path
    arguments: tuple[str, ...]
    ranks: int | None

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def start(self, *more: str) -> Ranks:
        return Ranks(pretrain, [*self.arguments, *more], self.ranks, self.directory.parent / "logs")


class Runs:
    """Runs of a case under a folder of their own; the uninterrupted one is made once."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab, self._folder, self._uninterrupted = lab, folder, {}

    def new(self, case: Case, folder: str) -> Run:
        """A run of `case` that is not started yet."""
        home = self._folder / f"{case}-{folder}"
        home.mkdir(exist_ok=True)
        recipe = case.recipe(self._lab.data(), home)
        recipe["model"] |= {"dropout": 0.1, "exits": list(case.exits)}
        recipe["data"]["workers"] = 2
        recipe["schedule"]["duration"] = f"{UPDATES} updates"
        recipe["checkpoint"] = {"every": f"{SAVE_EVERY} updates", "keep_last": 4}
        (home / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        arguments = [str(home / "recipe.yaml")]
        if case.stage is not None:
            zero = {"stage": case.stage} | ({"stage3_param_persistence_threshold": 0} if case.stage == 3 else {})
            (home / "deepspeed.json").write_text(json.dumps({"zero_optimization": zero}))
            arguments += ["--deepspeed_config", str(home / "deepspeed.json")]
        return Run(home / str(case), tuple(arguments), None if case.stage is None else case.ranks)

    def uninterrupted(self, case: Case) -> Run:
        """The run that all others of `case` must equal."""
        if case not in self._uninterrupted:
            run = self.new(case, "uninterrupted")
            with run.start() as ranks:
                assert set(ranks.wait()) == {0}, ranks.printed()
            self._uninterrupted[case] = run
        return self._uninterrupted[case]


@pytest.fixture(scope="module")
def runs(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    return Runs(lab, tmp_path_factory.mktemp("resume"))


@pytest.mark.parametrize(
    ("case", "signals"),
    [
        (Case(stage=2, accumulation=2), ("SIGKILL", "SIGUSR1")),
        (Case(stage=3, precision="bf16", lowered=True), ("SIGKILL", "SIGTERM")),
        (Case(stage=1, precision="bf16", muon=True), ("SIGKILL", "SIGUSR1")),
    ],
    ids=str,
)
def test_interrupted_equals_uninterrupted(case: Case, signals: tuple[str, ...], runs: Runs) -> None:
    check_interrupted_equals_uninterrupted(case, signals, runs)


@pytest.mark.all_combinations
@pytest.mark.parametrize("case", MATRIX + MUON + PLAIN + [replace(case, muon=True) for case in PLAIN], ids=str)
def test_interrupted_equals_uninterrupted_everywhere(case: Case, runs: Runs) -> None:
    check_interrupted_equals_uninterrupted(case, tuple(INTERRUPTIONS), runs)


def check_interrupted_equals_uninterrupted(case: Case, signals: tuple[str, ...], runs: Runs) -> None:
    """One run that is killed, started again, stopped by a signal, started again, and at last finished."""
    run, draw = runs.new(case, "-".join(signals)), random.Random(str(case))
    for name in signals:
        window = INTERRUPTIONS[name]
        update, rank = draw.randint(*window), draw.randrange(case.ranks)
        print(f"{name} to rank {rank} behind update {update}")
        resumes_from = newest(run) if run.checkpoints.exists() else None
        with run.start() as ranks:
            wait_for_update(run.directory, update, ranks)
            workers = [worker for number in range(case.ranks) for worker in ranks.workers(number)]
            assert len(workers) == 2 * case.ranks
            if name == "SIGKILL":
                os.kill(ranks.pids[rank], signal.SIGKILL)
                check_killed(ranks, rank)
            else:
                os.killpg(ranks.pids[rank], getattr(signal, name))  # its loader workers get it too
                check_stopped(run, ranks, TRY_AGAIN if name == "SIGUSR1" else 0)
            assert gone(workers, timeout=30)
            check_resumed(ranks, resumes_from)
    finish_and_compare(run, newest(run), runs.uninterrupted(case))


def check_killed(ranks: Ranks, killed: int) -> None:
    """The others notice, and none of them takes the run for done."""
    codes = ranks.wait(timeout=60)
    assert codes[killed] == -signal.SIGKILL
    assert 0 not in codes
    assert None not in codes, "a rank is left hanging"


def check_stopped(run: Run, ranks: Ranks, status: int = 0) -> None:
    """All ranks agreed, saved at that very update, said so and ended well."""
    assert set(ranks.wait(timeout=60)) == {status}, ranks.printed()
    stopped = last_update(run.directory)
    assert stopped < UPDATES
    assert f"stopped by a signal after update {stopped};" in ranks.printed()
    assert "Traceback" not in "".join(ranks.printed(rank) for rank in range(len(ranks.pids)))
    assert newest(run) == f"step-{stopped:08d}"


def check_resumed(ranks: Ranks, checkpoint: str | None) -> None:
    if checkpoint is None:
        assert "resuming" not in ranks.printed()
    else:
        assert f"resuming from checkpoint {checkpoint}\n" in ranks.printed()


def test_deepspeed_launcher(runs: Runs) -> None:
    """The real command line: kill -9 of one rank, then SIGTERM to all of its processes, as schedulers send it."""
    case = Case(stage=1, accumulation=2)
    run, draw = runs.new(case, "launcher"), random.Random("launcher")

    update, rank = draw.randint(5, 9), draw.randrange(2)
    print(f"SIGKILL to rank {rank} behind update {update}")
    with Launched(run) as launched:
        wait_for_update(run.directory, update, launched)
        launched.ranks()[rank].kill()
        assert launched.process.wait(60) not in (0, None)
        assert gone(launched.seen, timeout=60)
    killed_at = newest(run)

    print(f"SIGTERM behind update {(update := draw.randint(20, 24))}")
    with Launched(run) as launched:
        wait_for_update(run.directory, update, launched)
        launched.ranks()
        os.killpg(launched.process.pid, signal.SIGTERM)
        # What the launcher itself returns says nothing: it dies at once, or ends with 1 before its ranks have saved.
        assert gone(launched.seen, timeout=60)
    assert f"resuming from checkpoint {killed_at}\n" in launched.printed()
    assert "Traceback" not in launched.printed()
    stopped = last_update(run.directory)
    assert update <= stopped < UPDATES
    assert newest(run) == f"step-{stopped:08d}"
    finish_and_compare(run, newest(run), runs.uninterrupted(case))


class Launched:
    """A context in which the `deepspeed` command runs in a process group of its own."""

    def __init__(self, run: Run) -> None:
        self._log = run.directory.parent / "launcher.txt"
        command = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", "2", "--master_port", str(free_port())]
        with self._log.open("w") as output:
            self.process = subprocess.Popen(
                [*command, "launch/pretrain.py", *run.arguments],
                cwd=ROOT,
                env={**os.environ, **ENVIRONMENT},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.seen: list[psutil.Process] = []

    def __enter__(self) -> "Launched":
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self.seen, psutil.Process(self.process.pid)] if self.alive() else self.seen:
            if process.is_running():
                process.kill()
        self.process.wait()

    def alive(self) -> bool:
        return self.process.poll() is None

    def printed(self) -> str:
        return self._log.read_text(errors="replace")

    def ranks(self) -> list[psutil.Process]:
        """The ranks in order; all that has been started is remembered in `seen`."""
        (launcher,) = psutil.Process(self.process.pid).children()
        self.seen = [launcher, *launcher.children(recursive=True)]
        by_argument = {argument: process for process in launcher.children() for argument in process.cmdline()}
        return [by_argument[f"--local_rank={rank}"] for rank in (0, 1)]


DAMAGED = Case(stage=2, accumulation=2)


@pytest.mark.parametrize("case", [DAMAGED], ids=str)
def test_damaged_checkpoints_are_skipped(case: Case, runs: Runs) -> None:
    check_damaged_checkpoints_are_skipped(case, runs)


@pytest.mark.all_combinations
@pytest.mark.parametrize("case", [case for case in MATRIX if case != DAMAGED], ids=str)
def test_damaged_checkpoints_are_skipped_everywhere(case: Case, runs: Runs) -> None:
    check_damaged_checkpoints_are_skipped(case, runs)


def check_damaged_checkpoints_are_skipped(case: Case, runs: Runs) -> None:
    """A flipped bit, a cut file and a missing shard: each named, and the newest whole one used."""
    run, uninterrupted = runs.new(case, "damaged"), runs.uninterrupted(case)
    shutil.copytree(uninterrupted.directory, run.directory)
    flipped, cut, missing, whole = newest_first(run.checkpoints)

    shards = sorted(path.name for path in flipped.glob("*.safetensors"))
    assert len(shards) == case.ranks
    content = bytearray((flipped / shards[1]).read_bytes())
    content[len(content) // 2] ^= 1
    (flipped / shards[1]).write_bytes(content)
    size = (cut / shards[0]).stat().st_size
    os.truncate(cut / shards[0], size - 1)
    (missing / shards[0]).unlink()

    printed = finish_and_compare(run, whole.name, uninterrupted)
    problems = {
        flipped: f"{shards[1]} does not have the checksum it was written with",
        cut: f"{shards[0]} has {size - 1} bytes instead of {size}",
        missing: f"{shards[0]} is missing",
    }
    assert [line for line in printed.splitlines() if line.startswith("skipping")] == [
        f"skipping checkpoint {path.name}: {problem} (kept as broken-{path.name})" for path, problem in problems.items()
    ]


@pytest.mark.all_combinations
@pytest.mark.parametrize("stage", [1, 3])
def test_killed_while_saving_ten_times(stage: int, runs: Runs) -> None:
    """One rank, ten times in a run that saves behind every update: at random moments, and as soon as a save is seen."""
    case = Case(stage=stage, accumulation=2)
    run, draw, inside = runs.new(case, "saving"), random.Random(f"saving at stage {stage}"), 0
    for at_random in [True, False] * 5:
        before = last_update(run.directory)
        with run.start("checkpoint.every=1 updates") as ranks:
            wait_for_update(run.directory, before + 2, ranks)
            delay, rank = draw.uniform(0, 0.2), draw.randrange(2)
            end = time.monotonic() + (delay if at_random else 5)
            while time.monotonic() < end and (at_random or not list(run.checkpoints.glob(".step-*.writing"))):
                pass
            os.kill(ranks.pids[rank], signal.SIGKILL)
            ranks.wait(timeout=60)
        inside += bool(list(run.checkpoints.glob(".step-*.writing")))
        moment = f"{delay:.3f} s behind update {before + 2}" if at_random else "when it was seen to save"
        print(f"killed rank {rank} {moment}; newest is {newest(run)}")
    assert inside, "no kill hit a save"
    finish_and_compare(run, newest(run), runs.uninterrupted(case))


def newest(run: Run) -> str:
    """Name of the newest complete checkpoint; `latest` must name one that is complete, and no older than the one before
    the newest, since a kill may come between the two. Behind the first one it may come before there is a `latest`."""
    complete = [path.name for path in newest_first(run.checkpoints) if verify(path)[1] is None]
    latest = run.checkpoints / "latest"
    assert latest.read_text().strip() in complete[:2] if latest.exists() else len(complete) == 1
    return complete[0]


def finish_and_compare(run: Run, resumes_from: str, uninterrupted: Run) -> str:
    """The same command until the end, which must be that of `uninterrupted`. Returns what rank 0 printed."""
    with run.start() as ranks:
        assert set(ranks.wait()) == {0}, ranks.printed()
        check_resumed(ranks, resumes_from)
        printed = ranks.printed()
    assert newest(run) == newest(uninterrupted) == f"step-{UPDATES:08d}"
    assert_same_tensors(run.checkpoints / newest(run), uninterrupted.checkpoints / newest(run))
    assert_same_log(run.directory, uninterrupted.directory)
    return printed


def assert_same_tensors(checkpoint: Path, expected: Path) -> None:
    """Bit for bit: weights, moments (with Muon its momentum too) and step counters in the files of all ranks."""
    names = sorted(path.name for path in expected.glob("*.safetensors"))
    assert names == sorted(path.name for path in checkpoint.glob("*.safetensors"))
    for name in names:
        ours, theirs = (load_file(folder / name) for folder in (checkpoint, expected))
        assert ours.keys() == theirs.keys()
        assert {key.partition(":")[0] for key in theirs} - {"momentum_buffer"} == {
            "weight",
            "exp_avg",
            "exp_avg_sq",
            "step",
        }
        different = [key for key in theirs if not same_bits(ours[key], theirs[key])]
        assert not different, f"{name}: {different}"


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(t.detach().contiguous().flatten().view(torch.uint8) for t in (one, other)))


def assert_same_log(directory: Path, expected: Path) -> None:
    """Every scalar of every update once, equal to the last digit, in `metrics.jsonl` and TensorBoard alike."""
    ours, theirs = read_scalars(directory), read_scalars(expected)
    assert sorted(theirs["train/loss"]) == list(range(1, UPDATES + 1))
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name].keys() == values.keys(), name
        assert name in WALL_CLOCK or ours[name] == values, name

    board = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    board.Reload()
    assert set(board.Tags()["scalars"]) == ours.keys()
    for name, values in ours.items():
        assert [event.step for event in board.Scalars(name)] == sorted(values), name
        assert [event.value for event in board.Scalars(name)] == pytest.approx([values[u] for u in sorted(values)]), (
            name
        )

"""A campaign of faults: a run meets one at a random update, is started again, and must end as if nothing had happened.

python tools/benchmarks/faults.py --work faults --runs 100      # writes faults.md beside this file

Kills of a rank or of the launcher, signals, a rank that stops moving, a full disk, damaged checkpoints, a loss that is
no number, a power cut that drops what was not flushed. Two ranks, ZeRO 1 to 3, dropout on, real commands. What is done
is kept in WORK/results.jsonl: the same command again goes on.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from safetensors.torch import load_file

from megamini.training.checkpoints.checkpoint import newest_first
from megamini.training.checkpoints.manifest import verify
from tools.benchmarks.page import ROOT, free_port, heading, table

UPDATES, SAVE_EVERY, RANKS = 40, 4, 2
LAYER = Path(__file__).with_name("fault_layer")
# A run takes about half a minute; one that is still there after this is counted as a hang.
PATIENCE = 180.0  # seconds
RECIPE = """
name: run
model:
  family: xlm-roberta-xl
  config: {num_hidden_layers: 3, hidden_size: 32, num_attention_heads: 2, intermediate_size: 64}
  dropout: 0.1
  exits: [2]
data: {path: ../data, workers: 1}
objective: {method: minijoint}
optimizer: {learning_rate: 2.0e-3, name: OPTIMIZER}
schedule: {duration: 40 updates, warmup: 5 updates}
training: {global_batch: 8, micro_batch: 2, precision: fp32, hang_minutes: 0.2, runs: .}
telemetry: {every: 1, peak_tflops: 1.0}
checkpoint: {every: 4 updates, keep_last: 3}
"""


@dataclass
class Trial:
    """One run that meets one fault when it has reached an update. environment: what its processes get beside."""

    number: int
    fault: str
    stage: int
    update: int
    folder: Path
    draw: random.Random
    optimizer: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    def start(self) -> subprocess.Popen:
        paths = [str(LAYER), str(ROOT)] if self.environment else [str(ROOT)]
        environment = os.environ | self.environment | {
            "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        log = (self.folder / "log.txt").open("a")
        return subprocess.Popen(
            ["deepspeed", "--num_gpus", str(RANKS), "--master_port", str(free_port()), str(ROOT / "launch/pretrain.py"),
             "recipe.yaml", "--deepspeed_config", "deepspeed.json"],
            cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def last_update(self) -> int:
        path = self.run / "metrics.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return max((json.loads(line)["update"] for line in lines if line.endswith("}")), default=0)

    def newest(self) -> int:
        """Update of the newest complete checkpoint; 0 where there is none."""
        whole = (path for path in newest_first(self.checkpoints) if verify(path)[1] is None)
        return int(next(whole, Path("step-0")).name.removeprefix("step-"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, runs and results")
    parser.add_argument("--runs", type=int, default=100, help="number of trials (default: 100)")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument(
        "--out", type=Path, help="page to write (default: faults.md beside this file, or faults_muon.md)"
    )
    parser.add_argument("--only", type=int, help="this trial alone; used by the campaign itself")
    options = parser.parse_args()
    work = options.work.resolve() / options.optimizer
    name = "faults.md" if options.optimizer == "adamw" else f"faults_{options.optimizer}.md"
    out = options.out or Path(__file__).with_name(name)
    results = work / "results.jsonl"
    if options.only is not None:
        print(json.dumps(_attempt(_trial(options.only, work, options.optimizer))))
        return
    _prepare(work, options.optimizer)
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for number in range(len(done), options.runs):
        outcome = _in_its_own_place(number, work, options.optimizer)
        done.append(outcome)
        with results.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        print(json.dumps(outcome), flush=True)
    out.write_text(_page(done, options.optimizer), encoding="utf-8")
    print(out.read_text())


def _prepare(work: Path, optimizer: str) -> None:
    """Data from this project's own texts, and an uninterrupted run at each ZeRO stage."""
    work.mkdir(parents=True, exist_ok=True)
    texts = [str(ROOT / "README.md"), str(ROOT / "launch/recipes/README.md")]
    text = work / "text.txt"
    text.write_text("\n\n".join(Path(name).read_text(encoding="utf-8") for name in texts))
    prepare = ["tools/prepare_data.py", "--text", str(text), "--language", "en", "--vocab-size", "500",
               "--block-length", "32", "--validation-share", "0.1", "--out", str(work / "data")]  # fmt: skip
    subprocess.run([sys.executable, *prepare], cwd=ROOT, check=True)
    for stage in (1, 2, 3):
        folder = work / f"reference-{stage}"
        reference = _set_up(Trial(-stage, "none", stage, 0, folder, random.Random(0), optimizer))
        if reference.newest() < UPDATES and reference.start().wait(PATIENCE):
            raise SystemExit(f"the uninterrupted run failed: {reference.folder / 'log.txt'}")


def _trial(number: int, work: Path, optimizer: str) -> Trial:
    """Everything about a trial follows from its number."""
    draw = random.Random(number)
    fault = list(FAULTS)[number % len(FAULTS)]
    stage, update = draw.choice((1, 2, 3)), draw.randint(3, UPDATES - 5)
    return Trial(number, fault, stage, update, work / f"trial-{number:03d}", draw, optimizer)


def _set_up(trial: Trial) -> Trial:
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "recipe.yaml").write_text(RECIPE.replace("OPTIMIZER", trial.optimizer))
    (trial.folder / "deepspeed.json").write_text(json.dumps({"zero_optimization": {"stage": trial.stage}}))
    return trial


def _in_its_own_place(number: int, work: Path, optimizer: str) -> dict:
    """The outcome of a trial. For a full disk it runs in a namespace with a small file system of its own."""
    trial = _trial(number, work, optimizer)
    shutil.rmtree(trial.folder, ignore_errors=True)
    trial.folder.mkdir()
    command = [sys.executable, __file__, "--work", str(work.parent), "--only", str(number)]
    command += ["--optimizer", optimizer]
    if trial.fault == "full disk":
        mount = f"mount -t tmpfs -o size=16m tmpfs {trial.folder} && exec {' '.join(command)}"
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return {"trial": number, "fault": trial.fault, "stage": trial.stage, "error": done.stderr[-2000:]}
    shutil.rmtree(trial.folder, ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def _attempt(trial: Trial) -> dict:
    """Meet the fault, start again, and compare."""
    _set_up(trial)
    inject = FAULTS[trial.fault]
    if trial.fault == "not a number":
        trial.environment = {"FAULT_NONFINITE": f"{trial.draw.randrange(RANKS)}:{2 * trial.update}"}
    if trial.fault == "power cut":
        trial.environment = {"FAULT_JOURNAL": str(trial.folder / "journal.tsv")}
    launcher = trial.start()
    family = _family_when_at(trial, launcher)
    inject(trial, launcher, family)
    hang = _end(launcher, family, kill_orphans=trial.fault != "launcher killed")
    reached, kept = trial.last_update(), trial.newest()
    trial.environment = {}
    again = trial.start()
    hang = _end(again, [], kill_orphans=True) or hang
    return {
        "trial": trial.number, "fault": trial.fault, "stage": trial.stage, "update": trial.update,
        "lost": max(0, reached - kept), "hang": hang, "finished": trial.newest() == UPDATES,
        "exact": _is_exact(trial),
    }  # fmt: skip


def _family_when_at(trial: Trial, launcher: subprocess.Popen) -> list[psutil.Process]:
    """All processes of the run when it has reached the update of the fault; ranks first, in order."""
    deadline = time.monotonic() + PATIENCE
    while trial.last_update() < trial.update:
        if launcher.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"ended before update {trial.update}: {(trial.folder / 'log.txt').read_text()[-2000:]}")
        time.sleep(0.002)
    everyone = psutil.Process(launcher.pid).children(recursive=True)
    ranks = {}
    for process in everyone:
        for argument in process.cmdline():
            if argument.startswith("--local_rank="):
                ranks.setdefault(int(argument.partition("=")[2]), process)
    others = [process for process in everyone if process not in ranks.values()]
    return [*(ranks[rank] for rank in sorted(ranks)), *others]


def _end(launcher: subprocess.Popen, family: list[psutil.Process], kill_orphans: bool) -> bool:
    """Wait for the launcher and all it had started; whether any of them had to be killed."""
    try:
        launcher.wait(PATIENCE)
        hang = False
    except subprocess.TimeoutExpired:
        hang = True
    if kill_orphans:
        _, alive = psutil.wait_procs(family, timeout=60)
        # A stopped rank cannot end by itself; what the launcher leaves of it is no hang of the run.
        hang = hang or any(process.status() != psutil.STATUS_STOPPED for process in alive)
        for process in alive:
            process.kill()
    if launcher.poll() is None:
        os.killpg(launcher.pid, signal.SIGKILL)
    return hang


def _is_exact(trial: Trial) -> bool:
    """Whether the last checkpoint equals the uninterrupted run's, bit for bit. A loss that was no number has its own
    end: one update was left out, on both ranks alike, and the run went on."""
    if trial.fault == "not a number":
        return json.loads((trial.run / "compute.json").read_text())["skipped_updates"] == 1
    name, reference = f"step-{UPDATES:08d}", trial.folder.parent / f"reference-{trial.stage}" / "run/checkpoints"
    files = sorted(path.name for path in (reference / name).glob("*.safetensors"))
    for file in files:
        ours, theirs = (load_file(folder / name / file) for folder in (trial.checkpoints, reference))
        if ours.keys() != theirs.keys() or not all(ours[key].equal(theirs[key]) for key in theirs):
            return False
    return bool(files)


# --- faults: called when the run has reached its update -------------------------------------------------------------


def _signal_to_a_rank(number: signal.Signals) -> Callable:
    return lambda trial, launcher, family: family[trial.draw.randrange(RANKS)].send_signal(number)


def _kill_launcher(trial: Trial, launcher: subprocess.Popen, family: list[psutil.Process]) -> None:
    for process in [psutil.Process(launcher.pid), *family[RANKS:]]:
        if "deepspeed" in " ".join(process.cmdline()):
            process.kill()


def _terminate_all(trial: Trial, launcher: subprocess.Popen, family: list[psutil.Process]) -> None:
    os.killpg(launcher.pid, signal.SIGTERM)


def _fill_disk(trial: Trial, launcher: subprocess.Popen, family: list[psutil.Process]) -> None:
    ballast = trial.folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
    except OSError:
        pass
    launcher.wait(PATIENCE)
    ballast.unlink()


def _damage(change: Callable[[Path, random.Random], None]) -> Callable:
    """Kill a rank, and damage the newest checkpoint before the run is started again."""

    def inject(trial: Trial, launcher: subprocess.Popen, family: list[psutil.Process]) -> None:
        family[trial.draw.randrange(RANKS)].kill()
        launcher.wait(PATIENCE)
        psutil.wait_procs(family, timeout=60)
        if found := newest_first(trial.checkpoints):
            change(trial.draw.choice(sorted(path for path in found[0].iterdir() if path.is_file())), trial.draw)

    return inject


def _flip_bit(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def _cut_power(trial: Trial, launcher: subprocess.Popen, family: list[psutil.Process]) -> None:
    """Kill everything at once, then take back what no flush had brought to disk: contents, and names in folders."""
    for process in [*family, psutil.Process(launcher.pid)]:
        process.kill()
    launcher.wait(PATIENCE)
    psutil.wait_procs(family, timeout=60)
    events = [line.split("\t") for line in (trial.folder / "journal.tsv").read_text().splitlines()]
    flushed: dict[str, int] = {}
    for row, (kind, first, second) in enumerate(events):
        if kind == "flush":
            flushed[second] = int(first)
            continue
        later = {name for what, _, name in events[row:] if what == "flush"}
        if str(Path(second).parent) not in later and Path(second).is_dir():
            Path(second).rename(first)  # its new name was in memory only
            continue
        for name in [name for name in flushed if name == first or name.startswith(f"{first}/")]:
            flushed[second + name.removeprefix(first)] = flushed.pop(name)
    for path in trial.checkpoints.rglob("*"):
        size = path.stat().st_size
        if path.is_file() and flushed.get(str(path), 0) != size:
            os.truncate(path, min(flushed.get(str(path), 0), size))


FAULTS: dict[str, Callable] = {
    "rank killed": _signal_to_a_rank(signal.SIGKILL),
    "launcher killed": _kill_launcher,
    "SIGTERM": _terminate_all,
    "SIGUSR1": _signal_to_a_rank(signal.SIGUSR1),
    "rank stopped": _signal_to_a_rank(signal.SIGSTOP),
    "full disk": _fill_disk,
    "flipped bit": _damage(_flip_bit),
    "cut file": _damage(_cut),
    "missing file": _damage(lambda path, _: path.unlink()),
    "not a number": lambda trial, launcher, family: None,
    "power cut": _cut_power,
}


def _page(done: list[dict], optimizer: str) -> str:
    rows = []
    for fault in FAULTS:
        own = [one for one in done if one["fault"] == fault and "error" not in one]
        lost = Counter(one["lost"] for one in own)
        rows.append(
            [fault, len(own), sum(one["finished"] for one in own), sum(one["exact"] for one in own),
             sum(one["hang"] for one in own), max(lost, default=0)]
        )  # fmt: skip
    failed = [one for one in done if "error" in one or not (one["finished"] and one["exact"]) or one["hang"]]
    titles = ["fault", "runs", "finished", "exact", "hangs", "most updates lost"]
    return "\n".join(
        [
            heading(
                "Faults",
                ["torch", "deepspeed"],
                f"{len(done) - len(failed)} of {len(done)} runs that met a fault, and were started again, ended "
                "exactly as without it.",
            ),
            f"{len(done)} runs of {UPDATES} updates with {optimizer}, {RANKS} ranks, ZeRO 1 to 3. They save every "
            f"{SAVE_EVERY} updates.",
            "Each met one fault at a random update and was then started again.",
            "",
            "* Exact: the last checkpoint (weights, moments, steps of all ranks) equals that of an uninterrupted run,",
            "  bit for bit. Where a loss was not a number, exactly that update was left out.",
            "* Updates lost: from the last one logged back to the checkpoint from which the run continued. If the",
            "  newest checkpoint was damaged, this is the one before it.",
            "",
            table(titles, rows),
            f"Runs that did not finish, were not exact, or hung: {failed or 'none'}.",
        ]
    ) + "\n"  # fmt: skip


if __name__ == "__main__":
    main()

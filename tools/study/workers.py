"""Steps that depend on one another, several at a time, each a command line with a log of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from megamini.errors import UserError

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Step:
    """commands: run one after the other in the work folder. is_done: whether nothing is left to do; a step that has run
    and is not done has failed. whole: takes the
    machine for itself. then: called in this process when the commands have succeeded."""

    name: str
    commands: Sequence[Sequence[str]]
    is_done: Callable[[], bool]
    needs: Sequence[str] = ()
    whole: bool = False
    then: Callable[[], None] = field(default=lambda: None)


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen
    left: list[Sequence[str]]
    slots: int


def run_steps(steps: Sequence[Step], work: Path, jobs: int) -> None:
    """Run all steps that are not done, in order as far as their needs allow. Steps run again go on where they stopped.

    Each of `jobs` workers has its share of the cores, unless OMP_NUM_THREADS gives a number of threads. Raises
    UserError, after the other steps, for those that failed, and ValueError for a step that needs one which is not
    there.
    """
    if missing := {name for step in steps for name in step.needs} - {step.name for step in steps}:
        raise ValueError(f"no step {', '.join(sorted(missing))}, which others wait for")
    waiting = [step for step in steps if not step.is_done()]
    done = {step.name for step in steps} - {step.name for step in waiting}
    running: list[_Running] = []
    failed: dict[str, Path] = {}
    with tqdm(total=len(steps), initial=len(done), unit="step", disable=not sys.stderr.isatty()) as bar:
        while waiting or running:
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                if one.process.returncode:
                    failed[one.step.name] = _log(work, one.step)
                    bar.write(f"{one.step.name}: failed with status {one.process.returncode}")
                elif one.left:
                    running.append(_start(one.step, one.left, work, one.slots, jobs))
                else:
                    one.step.then()
                    if not one.step.is_done():
                        failed[one.step.name] = _log(work, one.step)
                        bar.write(f"{one.step.name}: ended with status 0 before it was done; stopped by a signal?")
                        continue
                    done.add(one.step.name)
                    bar.update()
                    print(f"{time.strftime('%H:%M:%S')} {one.step.name}: done", flush=True)
            waiting = [step for step in waiting if not set(step.needs) & set(failed) or _give_up(step, failed)]
            for step in [step for step in waiting if set(step.needs) <= done]:
                slots = jobs if step.whole else 1
                if sum(one.slots for one in running) + slots > jobs:
                    break
                waiting.remove(step)
                running.append(_start(step, list(step.commands), work, slots, jobs))
            time.sleep(_POLL_SECONDS)
    if failed:
        raise UserError("; ".join(f"{name}: see {log}" for name, log in failed.items()) + "; mend it and run again")


def _give_up(step: Step, failed: dict[str, Path]) -> bool:
    """A step whose needs failed counts as failed for those that need it."""
    failed[step.name] = next(failed[name] for name in step.needs if name in failed)
    return False


def _log(work: Path, step: Step) -> Path:
    return work / "logs" / f"{step.name}.log"


def _start(step: Step, commands: list[Sequence[str]], work: Path, slots: int, jobs: int) -> _Running:
    cores = os.cpu_count() or 1
    shares = slots == 1 and "OMP_NUM_THREADS" not in os.environ
    threads = {"OMP_NUM_THREADS": str(max(1, cores // jobs))} if shares else {}
    log = _log(work, step)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        output.write(f"$ {' '.join(commands[0])}\n")
        output.flush()
        process = subprocess.Popen(
            commands[0], cwd=work, env=os.environ | threads, stdout=output, stderr=subprocess.STDOUT
        )
    return _Running(step, process, commands[1:], slots)

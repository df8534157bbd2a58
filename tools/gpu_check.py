"""Try everything that only a GPU can show, in at most ten minutes, and write a page about it.

python tools/gpu_check.py --out docs/gpu/                          # one GPU; all of them where there are several
python tools/gpu_check.py --out docs/gpu/ --only speed loss        # some sections
python tools/gpu_check.py --out docs/gpu/ --collect wheels         # with a network: packages that the GPU's may lack
python tools/gpu_check.py --out docs/gpu/ --wheels wheels          # on the GPU's machine, without a network
python tools/gpu_check.py --out /tmp/try --shape tiny              # without a GPU: a dry run

Each section is a process of its own with its share of the time. The page is written behind every check, and says what
was not reached. Exit status 1 where a check failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.gpu_checks import wheels
from tools.gpu_checks.context import ROOT
from tools.gpu_checks.page import Page
from tools.gpu_checks.section import OUT_OF_TIME

# Section -> its share of the time.
SHARES = {"environment": 0.05, "smoke": 0.25, "zero": 0.2, "survival": 0.1, "parity": 0.1, "speed": 0.22, "loss": 0.08}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the page")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--shape", choices=("base", "tiny"), default="base", help="of what is timed; tiny: a dry run")
    parser.add_argument("--only", nargs="+", choices=tuple(SHARES), default=tuple(SHARES), metavar="SECTION")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="download what may be missing there, and end")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install what is missing here from this folder")
    options = parser.parse_args()
    if options.collect:
        wheels.collect(options.collect)
        return
    ends = time.time() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["GPU_CHECK_OUT"] = str(options.out.resolve())
        if options.wheels:
            environment["PYTHONPATH"] = str(wheels.install(options.wheels, Path(folder) / "packages"))
        left = [name for name in SHARES if name in (*options.only, "environment")]  # it names the page
        page = Page(options.out, options.shape, options.minutes, [] if len(left) == len(SHARES) else left[1:] or left)
        while left:
            shares = sum(SHARES[name] for name in left)
            name = left.pop(0)
            seconds = max(0.0, ends - time.time()) * SHARES[name] / shares  # what the ones before have left is shared
            _run_section(name, seconds, options.shape, Path(folder), environment, page)
    print(f"{page.path}\n{page.summary()}")
    raise SystemExit(1 if page.failed else 0)


def _run_section(name: str, seconds: float, shape: str, work: Path, environment: dict[str, str], page: Page) -> None:
    """Rows come in as lines of a file; a section that takes too long is ended with all that it has started."""
    rows, log = work / f"{name}.jsonl", work / f"{name}.log"
    rows.touch()
    command = [sys.executable, "-m", "tools.gpu_checks.section", name, shape, str(work), str(rows)]
    environment = {**environment, "GPU_CHECK_ENDS": str(time.time() + seconds)}
    page.begin(name)
    with log.open("w") as output, rows.open() as lines:
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        status = None
        while status is None:
            status = process.poll()
            for line in lines:
                page.add(name, json.loads(line))
            if time.monotonic() - started > seconds + 5 and status is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = OUT_OF_TIME
            time.sleep(0.1)
        for line in lines:
            page.add(name, json.loads(line))
    if status == OUT_OF_TIME:
        page.note(name, f"ended after its {seconds:.0f} seconds; what is not above was not reached")
    elif status:
        said = log.read_text(errors="replace").strip().splitlines()[-1:]
        page.add(name, {"check": "the section itself", "ok": False, "says": f"status {status}: {' '.join(said)}"})


if __name__ == "__main__":
    main()

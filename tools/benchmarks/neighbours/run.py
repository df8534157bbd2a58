"""Four ways to one more language, at equal compute: swapped pack, extension, replacement, word list.

python tools/benchmarks/neighbours/run.py --work neighbours --data real     # after `make quickstart`
python tools/benchmarks/neighbours/run.py --work neighbours --dry-run       # what there is to do
python tools/benchmarks/neighbours/run.py --page                            # README.md from the ledger alone

Every way learns over the mini-model for the same FLOPs, and is plugged into the primary model and its task models. What
is done is kept in ledger.jsonl: the same command again goes on. Text and word lists come from Debian's packages; the
tasks on real data (ud_pos/, sib200/) are left out without --data.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from megamini.errors import CommandParser, UserError, run_command

HERE = Path(__file__).resolve().parent
EXPORT = HERE.parents[2] / "runs/quickstart-en/export"


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--grid", type=Path, default=HERE / "neighbours.yaml", metavar="FILE", help="what is held beside each other")
    add("--work", type=Path, default=Path("neighbours"), metavar="DIR", help="folder for text, data, models and runs")
    add("--out", type=Path, default=HERE, metavar="DIR", help="folder of ledger.jsonl and README.md")
    add("--data", type=Path, metavar="DIR", help="real evaluation data (ud_pos/, sib200/); unset: pages alone")
    add("--primary", type=Path, default=EXPORT / "primary", metavar="DIR", help="exported primary model")
    add("--mini", type=Path, default=EXPORT / "mini", metavar="DIR", help="its mini-model")
    add("--page", action="store_true", help="write the page and stop")
    add("--dry-run", action="store_true", help="list the steps and their commands, then exit")
    options = parser.parse_args()

    from tools.benchmarks.neighbours.grid import cells_of, load_grid
    from tools.benchmarks.neighbours.page import write_page
    from tools.study.ledger import Ledgers
    from tools.study.workers import run_steps

    grid, ledgers, work = load_grid(options.grid), Ledgers(options.out.resolve()), options.work.resolve()
    if options.page:
        if not (found := ledgers.read()):
            raise UserError(f"{options.out}: holds no ledger; run this without --page first")
        write_page(grid, found, options.out)
        return
    from megamini.models.pretrained import weights_fingerprint
    from tools.benchmarks.neighbours.jobs import Jobs

    for folder in (options.primary, options.mini):
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no exported model; run `make quickstart`, or give --primary and --mini")
    facts = {"primary": weights_fingerprint(str(options.primary)), "settings": grid.settings()}
    if any(one.facts[key] != value for one in ledgers.read() for key, value in facts.items()):
        raise UserError(f"{options.out}: its ledger is of another primary model or other settings; give another --out")
    steps = Jobs(grid, work, ledgers, facts, options.data.resolve() if options.data else None).of(cells_of(grid))
    if options.dry_run:
        for step in steps:
            print(f"{step.name}{': done' if step.is_done() else ''}")
            print("\n".join(f"  {' '.join(command)}" for command in step.commands))
        return
    for name, folder in (("primary", options.primary), ("mini", options.mini)):
        shutil.copytree(folder, work / "models" / name, dirs_exist_ok=True)
    try:
        run_steps(steps, work, jobs=1)
    finally:
        if found := ledgers.read():
            write_page(grid, found, options.out)


if __name__ == "__main__":
    run_command(main)

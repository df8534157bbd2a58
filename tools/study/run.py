"""Run the study, or a part of it: text, primary models, adaptation, zero-shot evaluation, ledgers.

python tools/study/run.py --work study --dry-run                 # what there is to do
python tools/study/run.py --work study --ledgers study/ledgers   # all cells of study.yaml, from nothing
python tools/study/run.py --work row --ledgers row/ledgers --series standard mini --languages de  # one, from nothing

The same command again continues where it stopped. `python tools/study/results.py` writes RESULTS.md from the ledgers.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.errors import CommandParser, UserError, run_command

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--study", type=Path, default=HERE / "study.yaml", metavar="FILE", help="what there is to run")
    add("--work", type=Path, required=True, metavar="DIR", help="folder for text, data, models and runs")
    add("--ledgers", type=Path, default=HERE / "ledgers", metavar="DIR", help="folder of the ledgers that are kept")
    add("--data", type=Path, metavar="DIR", help="real evaluation data (ud_pos/, panx/, xnli/); unset: pages alone")
    add("--series", nargs="+", metavar="NAME", help="only cells of these series")
    add("--languages", nargs="+", metavar="LANG", help="only cells of these languages")
    add("--seeds", nargs="+", type=int, metavar="N", help="only cells of these seeds")
    add("--primaries", nargs="+", default=[], metavar="NAME", help="also these primary models, whether needed or not")
    add("--jobs", type=int, default=2, metavar="N", help="steps at a time, which share the cores (default: 2)")
    add("--ranks", type=int, default=1, metavar="N", help="processes of a pretraining run (default: 1)")
    add("--dry-run", action="store_true", help="list the steps and their commands, then exit")
    options = parser.parse_args()

    from tools.study.grid import cells_of, load_study
    from tools.study.ledger import Ledgers
    from tools.study.steps import Steps
    from tools.study.workers import run_steps

    study = load_study(options.study)
    chosen = {"series": options.series, "language": options.languages, "seed": options.seeds}
    every = cells_of(study)
    for key, wanted in chosen.items():
        known = {getattr(cell, key) for cell in every}
        if unknown := [value for value in wanted or () if value not in known]:
            raise UserError(f"no cell has {key} '{unknown[0]}'; there are {', '.join(map(str, sorted(known)))}")
    cells = [
        cell for cell in every if all(getattr(cell, key) in (w or [getattr(cell, key)]) for key, w in chosen.items())
    ]
    work = options.work.resolve()
    data = options.data.resolve() if options.data else None
    plan = Steps(study, work, Ledgers(options.ledgers.resolve()), data, options.ranks)
    steps = plan.of(cells, options.primaries)
    if plan.left_out:
        print(f"left out without --data: {', '.join(plan.left_out)}")
    if options.dry_run:
        for step in steps:
            print(f"{step.name}{': done' if step.is_done() else ''}")
            print("\n".join(f"  {' '.join(command)}" for command in step.commands))
        return
    work.mkdir(parents=True, exist_ok=True)
    run_steps(steps, work, options.jobs)
    print(f"{len(cells)} cells have their ledgers in {options.ledgers}")


if __name__ == "__main__":
    run_command(main)

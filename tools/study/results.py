"""Write RESULTS.md, DETAILS.md and their plots from the stored ledgers alone: every number in them, by this command.

python tools/study/results.py
python tools/study/results.py --ledgers row/ledgers --out row/RESULTS.md
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.errors import CommandParser, UserError, run_command, writing

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--study", type=Path, default=HERE / "study.yaml", metavar="FILE", help="what the series are")
    parser.add_argument("--ledgers", type=Path, default=HERE / "ledgers", metavar="DIR", help="what to write up")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", metavar="FILE", help="the page to write")
    options = parser.parse_args()

    from tools.study.grid import load_study
    from tools.study.ledger import Ledgers
    from tools.study.pages import write_pages

    study, ledgers = load_study(options.study), Ledgers(options.ledgers).read()
    if not any(one.is_cell for one in ledgers):
        raise UserError(f"{options.ledgers}: holds no ledger of a cell; run tools/study/run.py first")
    with writing(options.out):
        write_pages(study, ledgers, options.out)
    print(options.out)


if __name__ == "__main__":
    run_command(main)

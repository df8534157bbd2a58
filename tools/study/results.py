"""Write RESULTS.md, with its plots, from the stored ledgers alone: every number in it, by this one command.

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

    from tools.study import sections
    from tools.study.grid import load_study
    from tools.study.ledger import read_ledgers
    from tools.study.plots import plots
    from tools.study.pooling import MACRO_F1, pooled
    from tools.study.speeds import speeds_on

    study, ledgers = load_study(options.study), read_ledgers(options.ledgers)
    if not any(one.kind == "cell" for one in ledgers):
        raise UserError(f"{options.ledgers}: holds no ledger of a cell; run tools/study/run.py first")
    record = pooled(study, ledgers)
    tasks = sections.HEADLINE, sections.HEADLINE + MACRO_F1, sections.TAGS
    speeds = [one for task in tasks for one in speeds_on(task, record.results, study)]
    folder = options.out.parent / "plots"
    with writing(options.out):
        folder.mkdir(parents=True, exist_ok=True)
        page = (HERE / "RESULTS.template.md").read_text(encoding="utf-8")
        parts = {
            "made_with": sections.made_with(ledgers),
            "primaries": sections.primaries(ledgers),
            "series": sections.series_table(study, record),
            "transfer": sections.transfer(record, study, sections.HEADLINE),
            "transfer_tags": sections.transfer(record, study, sections.TAGS),
            "summary": sections.summary(record, speeds, study),
            "headline": sections.headline(speeds, study),
            "headline_macro_f1": sections.headline(speeds, study, sections.HEADLINE + MACRO_F1),
            "headline_tags": sections.headline(speeds, study, sections.TAGS),
            "amortised": sections.amortised(ledgers, speeds, study),
            "at_the_end": sections.at_the_end(record, study),
            "plots": plots(record, study, folder),
        }
        for name, text in parts.items():
            page = page.replace(f"<!-- {name} -->", text)
        options.out.write_text(page, encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    run_command(main)

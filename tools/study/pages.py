"""The two pages of the study: RESULTS.md, which is read, and DETAILS.md beside it, with every table."""

from collections.abc import Sequence
from pathlib import Path

from tools.study import claim, sections
from tools.study.grid import Study
from tools.study.ledger import Ledger
from tools.study.plots import plots
from tools.study.pooling import MACRO_F1, pooled
from tools.study.speeds import speeds_on

_TEMPLATE = Path(__file__).with_name("RESULTS.template.md")


def write_pages(study: Study, ledgers: Sequence[Ledger], out: Path) -> None:
    """`out`, DETAILS.md and plots/ in the same folder."""
    record = pooled(study, ledgers)
    measured = {result.task for result in record.results}
    tasks = [task for task in study.tasks if task in measured]
    by_task = {task: speeds_on(task, record.results, study) for task in tasks}
    speeds = [one for of_task in by_task.values() for one in of_task]
    folder = out.parent / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "claim": claim.claim(speeds, study),
        "english": claim.english(ledgers),
        "transfer": claim.transfer(record, study),
        "made_with": sections.made_with(ledgers),
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text)
    out.write_text(page, encoding="utf-8")
    macro = [task + MACRO_F1 for task in tasks if task + MACRO_F1 in measured]
    by_task |= {task: speeds_on(task, record.results, study) for task in macro}
    details = [
        "# The study: every table",
        f"All that is measured, beside [{out.name}]({out.name}). `python tools/study/results.py` writes both.",
        _HOW_TO_READ,
        "## Series",
        sections.series_table(study, record),
        "## Pretraining",
        sections.primaries(ledgers),
        *(part for task in tasks for part in (f"## Transfer: {task}", sections.transfer(record, study, task))),
        "## Summary",
        sections.summary(record, speeds, study),
        *(
            part
            for task, of_task in by_task.items()
            for part in (f"## Compute to reach standard's best: {task}", sections.headline(of_task, study, task))
        ),
        "## What is spent once",
        sections.amortised(ledgers, speeds, study),
        "## Every measure at the end of training",
        sections.at_the_end(record, study),
        "## Along the way",
        plots(record, study, folder),
    ]
    (out.parent / "DETAILS.md").write_text("\n\n".join(part for part in details if part) + "\n", encoding="utf-8")


_HOW_TO_READ = """* `at once`: the untrained pack reaches the target already.
* `≥`: the target is reached before the first pack that was learned.
* `[low, high; x%]`: 95% of 2,000 resamplings of adaptation seeds and of fine-tuned models, which are the same for all
  series. x% of the resamplings with a target reach it; the others count as 0. `- (x%)`: not reached as measured.
* Resamplings that reach it: in these, languages are drawn too.
* `average speed-up`: the geometric mean over all languages in which standard gains. A language that does not reach the
  target makes it 0.
* `mean of languages`: the curve of the mean accuracy."""

"""Show what runs have cost and reached, and quality against compute: on the console, and a report with plots.

python tools/report.py runs/quickstart-en --out runs/report
python tools/report.py runs/quickstart-en runs/quickstart-de-* runs/quickstart-zero-shot --out runs/report

DIR then holds report.md with its plots, and report.html, one file that needs nothing beside it.
"""

from pathlib import Path

from megamini.errors import CommandParser, UserError, run_command, writing


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run directories, of pretraining, adaptation, evaluation"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the report and its plots")
    arguments = parser.parse_args()

    from megamini.commands.reporting.adaptation import adaptation_section
    from megamini.commands.reporting.differences import differences_section
    from megamini.commands.reporting.evaluation import evaluation_section, is_evaluation, read_evaluation
    from megamini.commands.reporting.page import html_page
    from megamini.commands.reporting.pretraining import pretraining_section
    from megamini.commands.reporting.runs import NotYetValidated, read_run
    from megamini.commands.reporting.speed import speed_section
    from megamini.commands.reporting.summary import result_in_words

    out, directories = Path(arguments.out), [Path(run) for run in arguments.runs]
    names = [directory.name for directory in directories]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two runs have the name '{twice}', and plots are named after runs; rename one of the folders")
    evaluations = [read_evaluation(directory) for directory in directories if is_evaluation(directory)]
    runs, young = [], []
    for directory in directories:
        try:
            runs += [] if is_evaluation(directory) else [read_run(directory)]
        except NotYetValidated as reason:
            young.append(reason)
    if young and not runs and not evaluations:
        raise young[0]
    adaptations = [run for run in runs if run.is_adaptation]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        sections = [result_in_words(evaluations)]
        sections += [pretraining_section(run, out) for run in runs if not run.is_adaptation]
        if adaptations:
            sections.append(adaptation_section(adaptations, out))
        for record in evaluations:
            sections += [evaluation_section(record), differences_section(record)]
        sections.append(speed_section(evaluations, out))
        sections += [f"Not shown: {reason}." for reason in young]
        report = "\n\n".join(["# Report", *filter(None, sections)]) + "\n"
        (out / "report.md").write_text(report, encoding="utf-8")
        (out / "report.html").write_text(html_page("megamini report", report, out), encoding="utf-8")
    print(report)
    print(f"report with plots: {out / 'report.md'} and {out / 'report.html'}")


if __name__ == "__main__":
    run_command(main)

"""Multiple choice by likelihood: tasks that EleutherAI's lm-eval reads, out of task files or plain text.

python tools/likelihood_tasks.py xnli --data data/xnli --languages en de --out data/likelihood
python tools/likelihood_tasks.py text --data "data/text/debian-handbook.{language}.jsonl" --languages en de \\
    --out data/likelihood

xnli, pawsx, sib200: labelled examples, as docs/tasks-and-evaluation.md has their files. Each class is answered by a
word; --phrases has the words of languages that none come along for. text: which of four texts goes on a document of
your own. Written for each language: megamini_TASK_LANGUAGE.jsonl, one question a line, and
megamini_TASK_LANGUAGE.yaml, which says to lm-eval how to read it.
"""

from pathlib import Path

from megamini.errors import CommandParser, UserError, run_command


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("task", choices=("xnli", "pawsx", "sib200", "text"), help="whose examples")
    add("--data", required=True, metavar="DIR", help="folder of the task; text: a file, with {language} in its path")
    add("--languages", nargs="+", required=True, metavar="CODE", help="a task for each")
    add("--split", metavar="NAME", help="of a labelled task (default: test)")
    add("--limit", type=int, metavar="N", help="most questions a language, evenly spread over all; unset: all")
    add("--phrases", metavar="FILE", help="YAML with pattern and answers, with {language} in its path")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: must be at least 1")
    for name in ("phrases", "split") if options.task == "text" else ():
        if getattr(options, name):
            raise UserError(f"--{name}: goes with labelled tasks; text asks for the text that follows")
    if options.task == "text" and len(options.languages) > 1 and "{language}" not in options.data:
        raise UserError(
            f"--data {options.data}: would be the text of {' and '.join(options.languages)}; put {{language}} in its "
            "path, or write one language at a time"
        )

    from megamini.commands.likelihood_tasks.files import write_task
    from megamini.commands.likelihood_tasks.questions import questions_of_text, questions_on_classes
    from megamini.languages.codes import check_code

    for language in options.languages:
        check_code(language, "--languages")
        if options.task == "text":
            questions = questions_of_text(options.data, language, options.limit)
        else:
            questions = questions_on_classes(
                options.task, options.data, options.split or "test", language, options.phrases, options.limit
            )
        path = write_task(options.out, options.task, language, questions)
        print(f"{path}: {len(questions):,} questions of {len(questions[0].choices)} choices")


if __name__ == "__main__":
    run_command(main)

"""Pseudo text in a language that has a word list and little or no text (Wang, Ruder and Neubig 2022).

Each word of the source text that is in the list becomes one of its translations, drawn at random. All other words stay.
Sentences with fewer than --least such words are left out.

python tools/fetch_text.py freedict --languages de --out text
python tools/translate_words.py --text 'text/*.en.jsonl' --lexicon text/freedict.de.tsv --out text/pseudo.de.jsonl

tools/prepare_data.py takes the file like any other text, alone or beside real text. The training files of a task become
pseudo labelled data in the same way, with their labels, in a file that `task: custom` reads:

python tools/translate_words.py --task sib200 --path data/sib200 --language en --lexicon text/freedict.de.tsv \\
    --out data/pseudo/train.de.jsonl

With --label-by the labels are what a fine-tuned model says of the pseudo examples (label distillation):

python tools/translate_words.py --task sib200 --path data/sib200 --lexicon text/freedict.de.tsv \\
    --label-by runs/tasks/sib200/seed-0 --pack runs/de/packs/de --out data/pseudo/train.de.jsonl

The output depends on the text and the options only, not on --processes.
"""

import argparse
from collections import Counter
from pathlib import Path

from megamini.errors import CommandParser, UserError, run_command, writing
from megamini.machine import usable_cores


def main() -> None:
    options = _options().parse_args()
    for name, least in (("least", 1), ("processes", 1)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least {least}")
    if options.task and not options.path:
        raise UserError("--task goes with --path, the folder of its files")
    for name in ("path", "label_by", "pack"):
        if getattr(options, name) and not options.task:
            raise UserError(f"--{name.replace('_', '-')} goes with --task")
    if options.pack and not options.label_by:
        raise UserError("--pack goes with --label-by, the model that it is plugged into")
    (_examples if options.task else _text)(options)


def _text(options: argparse.Namespace) -> None:
    from megamini.commands.translate_words.pseudo_text import translate_files
    from megamini.data.corpus.documents import Layout, find_files

    if options.out.suffix != ".jsonl":
        raise UserError(f"--out {options.out}: JSON lines are written; call it .jsonl")
    files, layout = find_files(options.text), Layout(options.documents, options.text_column)
    if options.out.absolute() in files:
        raise UserError(f"--out {options.out}: is one of the --text files; choose another name")
    with writing(options.out):
        counts = translate_files(
            files, options.lexicon, layout, options.out, options.least, options.seed, options.processes
        )
    documents = f"{counts['kept_documents']:,} of {counts['documents']:,} documents"
    print(f"{options.out}: {documents}; {_told(counts, 'sentences')}")


def _examples(options: argparse.Namespace) -> None:
    from megamini.commands.translate_words import pseudo_examples
    from megamini.commands.translate_words.translator import Translator
    from megamini.downstream.tasks.registry import find_task

    task = find_task(options.task)
    suffix = pseudo_examples.SUFFIXES[task.kind]
    if options.out.suffix != f".{suffix}":
        raise UserError(f"--out {options.out}: a file of {task.kind} is .{suffix}")
    translator = Translator(options.lexicon)
    examples = task.read(Path(options.path), options.split, options.language)
    kept, counts = pseudo_examples.translated_examples(examples, translator, options.least, options.seed)
    if not kept:
        raise UserError(
            f"{options.lexicon}: no example of {len(examples):,} has {options.least} words of its second column; "
            "is it a list of the task's language? Else lower --least"
        )
    if options.label_by:
        from megamini.commands.translate_words.label_distillation import relabelled

        kept, changed, count = relabelled(kept, task, options.label_by, options.pack)
        print(f"{options.label_by}: gives {changed:,} of {count:,} labels anew ({changed / count:.0%})")
    with writing(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
    pseudo_examples.write_examples(options.out, task.kind, kept)
    print(f"{options.out}: {_told(counts, 'examples')}")
    columns = f", columns: [{', '.join(pseudo_examples.columns_of(kept))}]" if task.kind == "classification" else ""
    print(f"as a task: {{task: custom, kind: {task.kind}, path: {options.out.parent}{columns}}}")


def _told(counts: Counter[str], what: str) -> str:
    share = counts["translated_words"] / max(1, counts["kept_words"])
    return (
        f"{counts['kept_sentences']:,} of {counts['sentences']:,} {what}; {counts['translated_words']:,} of their "
        f"{counts['kept_words']:,} words are translated ({share:.0%})"
    )


def _options() -> argparse.ArgumentParser:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", nargs="+", metavar="FILE", help="source text: files, or globs in quotes")
    source.add_argument("--task", metavar="NAME", help="a task whose files become pseudo labelled data")
    add("--lexicon", required=True, metavar="FILE", help="lines of new word, tab, source word, as adaptation.lexicon")
    add("--out", required=True, type=Path, metavar="FILE", help="the file to write")
    add(
        "--least",
        type=int,
        default=3,
        metavar="N",
        help="listed words that a sentence or example must have (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="decides which translations are drawn (default: %(default)s)")
    add(
        "--documents",
        choices=["blank-line", "line"],
        default="blank-line",
        help="what separates documents in .txt files (default: %(default)s)",
    )
    add(
        "--text-column",
        default="text",
        metavar="NAME",
        help="the text in JSON lines and Parquet (default: %(default)s)",
    )
    add("--path", metavar="DIR", help="folder of the task's files")
    add("--label-by", type=Path, metavar="DIR", help="a fine-tuned model whose predictions become the labels")
    add("--pack", type=Path, metavar="DIR", help="language pack that it reads pseudo text with (default: none)")
    add("--split", default="train", metavar="S", help="split of the task (default: %(default)s)")
    add("--language", default="en", metavar="LANG", help="language of the task's files (default: %(default)s)")
    add("--processes", type=int, default=usable_cores(), metavar="N", help="(default: %(default)s)")
    return parser


if __name__ == "__main__":
    run_command(main)

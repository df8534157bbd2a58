"""A user's own task, from TSV, JSON lines, CoNLL or SQuAD files that the recipe names."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from megamini.downstream.examples import TaggedExample, TextExample
from megamini.downstream.files import bad_row, read_cells, read_json_lines, read_lines, read_sentences, read_table
from megamini.downstream.tasks.declaration import Kind, Layout, Reader, Task
from megamini.downstream.tasks.questions import read_squad
from megamini.errors import UserError

_METRICS = {"classification": "accuracy", "tagging": "accuracy", "question-answering": "f1"}
_TEXT_FORMATS = ".tsv or .jsonl"


def custom_task(name: str, kind: Kind, files: Mapping[str, str], columns: Sequence[str] = ()) -> Task:
    """A task whose labels its training data decide.

    files: split -> file or glob, in which {language} stands for the language. columns: names of one or two text
    columns and of the label's, last, in TSV files with a header and in JSON lines. Without them a TSV file has no
    header, its last column is the label, and JSON lines have `text` and `label`.
    """
    readers: dict[Kind, Reader] = {
        "classification": _text_reader(tuple(columns)),
        "tagging": read_conll,
        "question-answering": read_squad,
    }
    return Task(
        name=name,
        kind=kind,
        metric=_METRICS[kind],
        source=f"tasks.{name}.files says which files are read",
        layouts={split: (Layout(pattern, readers[kind]),) for split, pattern in files.items()},
    )


def _text_reader(columns: tuple[str, ...]) -> Reader:
    def read(path: Path, language: str) -> Iterator[TextExample]:
        if path.suffix == ".jsonl":
            keys = columns or ("text", "label")
            yield from _texts(path, read_json_lines(path, keys), keys)
        elif path.suffix != ".tsv":
            raise UserError(f"{path}: cannot tell the format; a file of texts is {_TEXT_FORMATS}")
        elif columns:
            yield from _texts(path, read_table(path, columns), columns)
        else:
            yield from _headless(path)

    return read


def _texts(
    path: Path, rows: Iterator[tuple[int, Mapping[str, str]]], columns: tuple[str, ...]
) -> Iterator[TextExample]:
    for row, values in rows:
        yield _example(path, row, [values[name] for name in columns])


def _headless(path: Path) -> Iterator[TextExample]:
    first = next((line for _, line in read_lines(path) if line.strip()), "")
    columns = len(first.split("\t"))
    if columns not in (2, 3):
        raise bad_row(path, 1, f"{columns} tab-separated columns; one or two texts and the label are needed")
    for row, cells in read_cells(path, columns):
        yield _example(path, row, cells)


def _example(path: Path, row: int, cells: Sequence[str]) -> TextExample:
    *texts, label = (cell.strip() for cell in cells)
    if not all(texts) or not label:
        raise bad_row(path, row, "a text or the label is empty")
    return TextExample(tuple(texts), label)


def read_conll(path: Path, language: str) -> Iterator[TaggedExample]:
    """A word a line, first column the word and last its tag, by tabs or spaces; a blank line between sentences."""
    for sentence in read_sentences(path, lambda line: None if line.startswith("-DOCSTART-") else line.split()):
        for row, cells in sentence:
            if len(cells) < 2:
                raise bad_row(path, row, "one column; a word and its tag are needed")
        yield TaggedExample(tuple(cells[0] for _, cells in sentence), tuple(cells[-1] for _, cells in sentence))

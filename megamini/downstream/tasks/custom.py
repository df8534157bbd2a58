"""A user's own task, from TSV, JSON lines, CoNLL or SQuAD files that the recipe names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from megamini.downstream.task_data.examples import Example, TaggedExample, TextExample
from megamini.downstream.task_data.rows import (
    bad_row,
    first_cells,
    read_cells,
    read_json_lines,
    read_lines,
    read_sentences,
    read_table,
)
from megamini.downstream.task_data.squad_file import read_squad
from megamini.downstream.tasks.declaration import Kind, Layout, Reader, Task
from megamini.errors import UserError

_METRICS = {"classification": "accuracy", "tagging": "accuracy", "question-answering": "f1"}
_ENTITY_TAG = re.compile(r"O|[BIESUL]-.+")
_TEXT_FORMATS = ".tsv or .jsonl"


def custom_task(name: str, kind: Kind, files: Mapping[str, str], columns: Sequence[str] = ()) -> Task:
    """A task whose labels its training data decide.

    files: split -> file or glob, in which {language} stands for the language. columns: names of one or two text
    columns and of the label's, last, in TSV files with a header and in JSON lines. Without them a TSV file has no
    header, its last column is the label, and JSON lines have `text` and `label`.
    """
    reader = _reader(kind, tuple(columns))
    return Task(
        name=name,
        kind=kind,
        metric=_METRICS[kind],
        source=f"tasks.{name}.files says which files are read",
        layouts={split: (Layout(pattern, reader),) for split, pattern in files.items()},
    )


def read_labelled(path: Path, kind: Kind) -> list[Example]:
    """The examples of one file of a kind, such as tools/translate_words.py writes: JSON lines have the keys text (and
    text_pair) and label. Raises UserError for bad data, and for none."""
    columns: tuple[str, ...] = ()
    if kind == "classification" and path.suffix == ".jsonl":
        first = next((values for _, values in read_json_lines(path, ("text",))), {})
        columns = ("text", "text_pair", "label") if "text_pair" in first else ("text", "label")
    if not (examples := list(_reader(kind, columns)(path, ""))):
        raise UserError(f"{path}: holds no example")
    return examples


def _reader(kind: Kind, columns: tuple[str, ...]) -> Reader:
    readers: dict[Kind, Reader] = {
        "classification": _text_reader(columns),
        "tagging": read_conll,
        "question-answering": read_squad,
    }
    return readers[kind]


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
    columns = len(first_cells(path)) or 1
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
    """A word a line, first column the word and last its tag, by tabs or else by spaces; a blank line between sentences.

    Comments (`# id 7 domain=en`, `#begin document`) are passed over; a word that is `#`, or begins so, has as many
    columns as the others, and a tag that is one of theirs or an entity's.
    """
    others = [cells for _, line in read_lines(path) if line.strip() and (cells := _columns(line))[0][:1] != "#"]
    widths, tags = {len(cells) for cells in others}, {cells[-1] for cells in others}

    def cells_of(line: str) -> list[str] | None:
        cells = _columns(line)
        is_word = len(cells) in widths and (cells[-1] in tags or _ENTITY_TAG.fullmatch(cells[-1]))
        return None if line.startswith("-DOCSTART-") or (line.startswith("#") and not is_word) else cells

    for sentence in read_sentences(path, cells_of):
        for row, cells in sentence:
            if len(cells) < 2 or not cells[0]:
                raise bad_row(path, row, "one column; a word and its tag are needed")
        yield TaggedExample(tuple(cells[0] for _, cells in sentence), tuple(cells[-1] for _, cells in sentence))


def _columns(line: str) -> list[str]:
    if "\t" in line.strip():
        return [cell.strip(" ") for cell in line.rstrip().split("\t")]
    return [cell for cell in line.strip().split(" ") if cell]  # other spaces, such as 10 000's, are part of a word

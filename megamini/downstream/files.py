"""Files of task data, read row by row; whatever is wrong with a row names the file and the row."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megamini.errors import UserError


def bad_row(path: Path, row: int, problem: str) -> UserError:
    """The error for one row, counted from 1 as editors do."""
    return UserError(f"{path}: row {row}: {problem}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(row number, line without its end). Raises UserError for a file that cannot be read or is not UTF-8."""
    try:
        # Only a line feed ends a row: texts hold separators at which `splitlines` would cut.
        with path.open(encoding="utf-8", newline="\n") as lines:
            for row, line in enumerate(lines, start=1):
                yield row, line.rstrip("\n").removesuffix("\r")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start} of a part of it)") from None


def read_cells(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells) of a tab-separated file without quoting, each row of exactly `columns` cells; blank rows are
    passed over."""
    for row, line in read_lines(path):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != columns:
            raise bad_row(path, row, f"{len(cells)} tab-separated columns instead of {columns}")
        yield row, cells


def read_table(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row number, column name -> cell) of a tab-separated file whose first row names the columns."""
    header: list[str] | None = None
    for row, line in read_lines(path):
        cells = line.split("\t")
        if header is None:
            header = cells
            if missing := [name for name in needed if name not in header]:
                raise bad_row(path, row, f"no column '{missing[0]}' among {', '.join(header)[:200]}")
        elif line.strip():
            if len(cells) != len(header):
                raise bad_row(path, row, f"{len(cells)} tab-separated columns, the first row has {len(header)}")
            yield row, dict(zip(header, cells, strict=True))


def read_json_lines(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, object) of a file of JSON lines, each with text under all `needed` keys."""
    for row, line in read_lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise bad_row(path, row, f"not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise bad_row(path, row, f"expected a JSON object, found {type(values).__name__}")
        for key in needed:
            if not isinstance(values.get(key), str):
                raise bad_row(path, row, f"'{key}' is missing or not text")
        yield row, values


def read_sentences(path: Path, cells_of: Callable[[str], list[str] | None]) -> Iterator[list[tuple[int, list[str]]]]:
    """Sentences of a file with one word a line and a blank line between: per word the row number and its cells.

    `cells_of` splits a line; None passes it over.
    """
    sentence: list[tuple[int, list[str]]] = []
    for row, line in read_lines(path):
        if line.strip():
            cells = cells_of(line)
            if cells is not None:
                sentence.append((row, cells))
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence

"""Files of task data, read row by row: with or without a byte order mark, quoted or not. Whatever is wrong with a row
names the file and the row."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from megamini.errors import UserError
from megamini.machine import is_first_rank

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_QUOTED, _PLAIN = r'"[^"]*(?:""[^"]*)*"', r'[^"\t]*'
_CELL = re.compile(rf"(?:^|\t)({_QUOTED}|{_PLAIN})")
_ALL_QUOTED = re.compile(rf"{_QUOTED}(?:\t{_QUOTED})*")
_WELL_QUOTED = re.compile(rf"(?:{_QUOTED}|{_PLAIN})(?:\t(?:{_QUOTED}|{_PLAIN}))*")


def bad_row(path: Path, row: int | str, problem: str) -> UserError:
    """The error for one row, counted from 1 as editors do, or for a location such as data[0].paragraphs[2]."""
    return UserError(f"{path}: row {row}: {problem}")


def note(message: str) -> None:
    """Say what was left out of a file. Rank 0 only."""
    if is_first_rank():
        print(message, flush=True)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(row number, line without its end). Raises UserError for a file that cannot be read, and a row not in UTF-8."""
    try:
        # Only a line feed ends a row: texts hold separators at which `splitlines` would cut.
        with path.open("rb") as lines:
            for row, line in enumerate(lines, start=1):
                if row == 1 and line.startswith(_UTF_16):
                    raise bad_row(path, row, "not UTF-8 text (it begins as UTF-16 does); save the file as UTF-8")
                text = line.decode("utf-8-sig" if row == 1 else "utf-8")
                yield row, text.rstrip("\n").removesuffix("\r")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise bad_row(path, row, f"not UTF-8 text (byte {error.start} of the row)") from None


# --- tables ---------------------------------------------------------------------------------------------------------


def read_cells(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells) of a tab-separated file, each row of exactly `columns` cells; blank rows are passed over."""
    cells_of = _cells_reader(path)
    for row, line in read_lines(path):
        if not line.strip():
            continue
        cells = cells_of(line)
        if len(cells) != columns:
            raise bad_row(path, row, f"{len(cells)} tab-separated columns instead of {columns}")
        yield row, cells


def read_table(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row number, column name -> cell) of a tab-separated file whose first row names the columns."""
    cells_of, header = _cells_reader(path), None
    for row, line in read_lines(path):
        if header is None:
            header = cells_of(line)
            if missing := [name for name in needed if name not in header]:
                raise bad_row(path, row, f"no column '{missing[0]}' among {', '.join(header)[:200]}")
        elif line.strip():
            cells = cells_of(line)
            if len(cells) != len(header):
                raise bad_row(path, row, f"{len(cells)} tab-separated columns, the first row has {len(header)}")
            yield row, dict(zip(header, cells, strict=True))


def first_cells(path: Path) -> list[str]:
    """The cells of the first row that is not blank; none of an empty file."""
    line = next((line for _, line in read_lines(path) if line.strip()), "")
    return _cells_reader(path)(line) if line else []


def _cells_reader(path: Path) -> Callable[[str], list[str]]:
    """What splits a line of this file by tabs: with CSV's quoting where the file is written so."""
    return _quoted_cells if _is_quoted(path) else lambda line: line.split("\t")


def _is_quoted(path: Path) -> bool:
    """Whether a tab-separated file has CSV's quoting. XNLI has none, and quotes of its texts stand alone anywhere;
    SIB-200 has it, and so have some languages of PAWS-X.

    A file is quoted where each cell that begins with a quote also ends with it, every quote inside is doubled, and no
    other cell holds any; and where the quoting says something: a quote or a tab inside, or every cell has it.
    """
    says, every = False, True
    for _, line in read_lines(path):
        every = every and (not line.strip() or _ALL_QUOTED.fullmatch(line) is not None)
        if '"' in line:
            if not _WELL_QUOTED.fullmatch(line):
                return False
            says = says or any('"' in cell or "\t" in cell for cell in _quoted_cells(line))
    return says or every


def _quoted_cells(line: str) -> list[str]:
    cells = [found[1] for found in _CELL.finditer(line)]
    return [cell[1:-1].replace('""', '"') if cell.startswith('"') else cell for cell in cells]


# --- JSON -----------------------------------------------------------------------------------------------------------


def read_json(path: Path, form: str) -> Any:
    """What a file of one JSON value holds, which should be in the format `form`. Raises UserError where it is torn."""
    try:
        return json.loads("\n".join(line for _, line in read_lines(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a file in {form}: not valid JSON: {error}") from None


def read_json_lines(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, object) of a file of JSON lines, each with text under all `needed` keys."""
    for row, line in read_lines(path):
        if line.strip():
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:  # torn, or numbers and brackets beyond what Python reads
                raise bad_row(path, row, f"not valid JSON: {error}") from None
            if not isinstance(values, dict):
                raise bad_row(path, row, f"expected a JSON object, found {type(values).__name__}")
            check_texts(path, row, values, needed)
            yield row, values


def check_texts(path: Path, row: int | str, values: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Raises UserError where one of `keys` is missing or no text. JSON's escapes can spell half a character beyond
    U+FFFF (a lone surrogate), which is no text: no tokenizer takes it."""
    for key in keys:
        if not isinstance(values.get(key), str):
            raise bad_row(path, row, f"'{key}' is missing or not text")
        try:
            values[key].encode()
        except UnicodeEncodeError:
            raise bad_row(path, row, f"'{key}' holds half a surrogate pair, which is not valid Unicode") from None


# --- words ----------------------------------------------------------------------------------------------------------


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

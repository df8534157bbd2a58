"""Documents from files (text, JSON lines, Parquet), in work units whose bounds do not depend on who reads them.

A document arrives as one or more `Chunk`s of at most `CHUNK_CHARACTERS` characters, so a text file takes constant
memory however long the document; a JSON line or a Parquet row is held whole. A document's chunks, joined, are its text.
"""

import codecs
import glob
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from megamini.data.corpus import chunks
from megamini.data.corpus.chunks import Chunk, cut_document
from megamini.data.corpus.compressed import COMPRESSIONS, DAMAGE, open_file
from megamini.errors import UserError, did_you_mean
from megamini.files import parse_json

UNIT_BYTES = 64 * 2**20
_LINES = "JSON lines hold one object a line"
_RETURNS_ALONE = "its lines end with a carriage return alone; convert it: tr '\\r' '\\n' < FILE > NEW"
LINE_BYTES = 2**20  # a longer line of a text file is read in parts
KINDS = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "json",
    ".json-lines": "json",
    ".jsonlines": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class Unit:
    """A part of one file that one worker reads: bytes `start` to `stop`, or Parquet row groups `start` to `stop`.

    A compressed file is one unit, from 0 to None. `bytes` is the unit's size on disk.
    """

    path: str
    kind: str
    start: int
    stop: int | None
    bytes: int

    @property
    def compression(self) -> str | None:
        suffix = Path(self.path).suffix.lower()
        return suffix if suffix in COMPRESSIONS else None


@dataclass(frozen=True)
class Layout:
    """How documents lie in the files: `documents` is blank-line or line (text files), `text_column` holds the text of
    JSON lines and Parquet rows."""

    documents: str = "blank-line"
    text_column: str = "text"


def find_files(patterns: list[str], option: str = "--text") -> list[Path]:
    """The files that `patterns` (names or globs) of an option stand for, each glob sorted, none twice.

    Raises UserError for a pattern without a file, an empty file and an extension that cannot be read.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not matches:
            raise UserError(f"{option} {pattern}: no such file")
        files.update(dict.fromkeys(Path(match).absolute() for match in matches))
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: not a file; give its files, for example '{file}/*.txt'")
        if file.stat().st_size == 0:
            raise UserError(f"{file}: the file is empty")
        file_kind(file)
    return list(files)


def file_kind(file: Path) -> str:
    """text, json or parquet, by the extension before that of the compression."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    kept = suffixes[:-1] if compressed else suffixes
    kind = KINDS.get(kept[-1]) if kept else None
    if kind is None:
        raise UserError(
            f"{file}: cannot tell the format; known are {', '.join(KINDS)}, each also with {', '.join(COMPRESSIONS)}"
            + (did_you_mean(kept[-1], KINDS) if kept else "")
        )
    if kind == "parquet" and compressed:
        raise UserError(f"{file}: Parquet must be read out of order; decompress the file first")
    return kind


def plan_units(files: list[Path], layout: Layout, unit_bytes: int | None = None) -> list[Unit]:
    """Split `files` into units of about `unit_bytes` (UNIT_BYTES), each beginning where a document begins."""
    return [unit for file in files for unit in _plan_file(file, layout, unit_bytes or UNIT_BYTES)]


def _plan_file(file: Path, layout: Layout, unit_bytes: int) -> Iterator[Unit]:
    kind, size = file_kind(file), file.stat().st_size
    whole = Unit(str(file), kind, 0, None, size)
    if kind == "parquet":
        yield from _plan_parquet(whole, layout, unit_bytes)
    elif whole.compression or size <= unit_bytes:
        yield whole
    else:
        with _opened(whole) as stream:
            start = 0
            while start < size:
                stop = _next_document(stream, start + unit_bytes, size, blank_line=_by_blank_line(whole, layout))
                yield Unit(str(file), kind, start, stop, stop - start)
                start = stop


def _by_blank_line(unit: Unit, layout: Layout) -> bool:
    return unit.kind == "text" and layout.documents == "blank-line"


def _next_document(stream: IO[bytes], position: int, size: int, blank_line: bool) -> int:
    """Where the first document begins that starts after `position`: behind a line end, or behind a blank line."""
    if position >= size:
        return size
    stream.seek(position - 1)
    at_line_start = False  # unknown for the byte before `position`; the first line end settles it
    while part := stream.readline(LINE_BYTES):
        ended = part.endswith(b"\n")
        if ended and (not blank_line or (at_line_start and part.isspace())):
            return stream.tell()
        at_line_start = ended
    return size


def _plan_parquet(whole: Unit, layout: Layout, unit_bytes: int) -> Iterator[Unit]:
    with _parquet(whole.path, layout) as table:
        sizes = [table.metadata.row_group(group).total_byte_size for group in range(table.metadata.num_row_groups)]
    share = whole.bytes / max(1, sum(sizes))  # so that the units' sizes add up to about the file's
    start, held = 0, 0
    for group, group_bytes in enumerate(sizes):
        held += group_bytes
        if held >= unit_bytes or group == len(sizes) - 1:
            yield Unit(whole.path, "parquet", start, group + 1, round(held * share))
            start, held = group + 1, 0


def read_chunks(unit: Unit, layout: Layout) -> Iterator[Chunk]:
    """The documents of `unit` in order, as chunks. Documents of white space only are left out.

    Raises UserError naming the file and line (or row) for invalid UTF-8, torn JSON, a missing text column, text that is
    not a string, and a torn or invalid compressed file.
    """
    readers = {"text": _read_text, "json": _read_json, "parquet": _read_parquet}
    try:
        yield from readers[unit.kind](unit, layout)
    except DAMAGE as error:
        raise UserError(f"{unit.path}: the compressed file is torn or invalid: {error}; fetch it again") from None
    except FileNotFoundError:
        raise UserError(f"{unit.path}: the file is gone") from None
    except OSError as error:
        # gzip and bz2 report bad data as an OSError without a number.
        if error.errno is None and unit.compression:
            raise UserError(f"{unit.path}: the compressed file is torn or invalid: {error}; fetch it again") from None
        if error.filename == unit.path:
            raise UserError(f"{unit.path}: cannot be read: {error.strerror}") from None
        raise


def _opened(unit: Unit) -> IO[bytes]:
    try:
        return open_file(unit.path, unit.compression)
    except PermissionError:
        raise UserError(f"{unit.path}: no permission to read it") from None


def _lines(unit: Unit, limit: int = -1) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the unit; a line longer than `limit` bytes comes in parts."""
    with _opened(unit) as stream:
        if unit.start:
            stream.seek(unit.start)
        position = unit.start
        while (unit.stop is None or position < unit.stop) and (line := stream.readline(limit)):
            yield position, line
            position += len(line)


def _line_number(unit: Unit, offset: int) -> int:
    """The number, from 1, of the line at byte `offset` of the (decompressed) file."""
    lines = 0
    for position, part in _lines(Unit(unit.path, unit.kind, 0, offset, offset), LINE_BYTES):
        lines += part[: offset - position].count(b"\n")
    return lines + 1


def _is_one_line(unit: Unit) -> bool:
    """Whether a file has no line end but at its own end."""
    lines = _lines(replace(unit, start=0, stop=None), LINE_BYTES)
    for _, part in lines:
        if part.endswith(b"\n"):
            break
    return next(lines, None) is None


def _read_text(unit: Unit, layout: Layout) -> Iterator[Chunk]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    blank_line = layout.documents == "blank-line"
    held: list[str] = []
    characters, first, continued = 0, True, False
    for offset, line in _lines(unit, LINE_BYTES):
        try:
            text = decoder.decode(line)
        except UnicodeDecodeError:
            raise UserError(f"{unit.path}: line {_line_number(unit, offset)}: not valid UTF-8") from None
        ends = line.endswith(b"\n")
        if offset == 0:
            text = text.removeprefix("\ufeff")
            if text.removesuffix("\r\n").count("\r") > 1 and _is_one_line(unit):  # which would be one document
                raise UserError(f"{unit.path}: {_RETURNS_ALONE}")
        blank = blank_line and ends and not continued and text.isspace()
        if not blank:
            held.append(text)
            characters += len(text)
        if blank or (ends and not blank_line):
            yield from cut_document("".join(held).rstrip("\r\n"), first=first)
            held, characters, first = [], 0, True
        elif characters > 2 * chunks.CHUNK_CHARACTERS and first and all(part.isspace() for part in held):
            held, characters = [], 0
        elif characters > 2 * chunks.CHUNK_CHARACTERS:
            # Hand over what is certain; the rest waits, so that the document's last chunk is known to be the last.
            *ready, rest = cut_document("".join(held), first=first)
            for chunk in ready:
                yield chunk
                first = False
            held, characters = [rest.text], len(rest.text)
        continued = not ends
    try:
        held.append(decoder.decode(b"", final=True))
    except UnicodeDecodeError:
        raise UserError(f"{unit.path}: the last line ends inside a character: not valid UTF-8") from None
    yield from cut_document("".join(held).rstrip("\r\n"), first=first)


def _read_json(unit: Unit, layout: Layout) -> Iterator[Chunk]:
    for offset, line in _lines(unit):
        if line.isspace():
            continue
        try:
            record = parse_json(line.removeprefix(codecs.BOM_UTF8))
            if not isinstance(record, dict):
                raise UserError(f"not a JSON object; {_LINES}")
            if layout.text_column not in record:
                raise UserError(missing_column(layout.text_column, list(record)))
            yield from _record_chunks(record[layout.text_column], record.get("id"))
        except ValueError as error:
            raise UserError(f"{unit.path}: line {_line_number(unit, offset)}: {error}; {_LINES}") from None
        except UserError as error:
            raise UserError(f"{unit.path}: line {_line_number(unit, offset)}: {error}") from None


def _read_parquet(unit: Unit, layout: Layout) -> Iterator[Chunk]:
    with _parquet(unit.path, layout) as table:
        groups = range(unit.start, table.metadata.num_row_groups if unit.stop is None else unit.stop)
        row = sum(table.metadata.row_group(group).num_rows for group in range(unit.start))
        columns = [layout.text_column, *({"id"} & set(table.schema_arrow.names))]
        try:
            for batch in table.iter_batches(1_000, row_groups=list(groups), columns=columns):
                for record in batch.to_pylist():
                    row += 1
                    yield from _record_chunks(record[layout.text_column], record.get("id"))
        except UserError as error:
            raise UserError(f"{unit.path}: row {row}: {error}") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{unit.path}: after row {row}: torn or invalid Parquet: {error}") from None


def _parquet(path: str, layout: Layout) -> pa.parquet.ParquetFile:
    try:
        table = pa.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: torn or invalid Parquet: {error}") from None
    if layout.text_column not in table.schema_arrow.names:
        raise UserError(f"{path}: {missing_column(layout.text_column, table.schema_arrow.names)}")
    return table


def missing_column(text_column: str, columns: list[str]) -> str:
    """The message for records without the column that should hold the text."""
    there = ", ".join(columns) or "none"
    return f"no column '{text_column}'; the columns are {there}; name the right one with --text-column"


def _record_chunks(text: Any, identity: Any) -> Iterator[Chunk]:
    if text is None:
        return
    if not isinstance(text, str):
        raise UserError(f"the text is {type(text).__name__}, not a string")
    name = None if identity is None else str(identity)
    for what, value in (("text", text), ("id", name or "")):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"the {what} holds half a surrogate pair, which is not valid Unicode") from None
    yield from cut_document(text, name)

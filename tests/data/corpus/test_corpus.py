"""Documents of every kind of file, in units that do not depend on who reads them; what is torn or odd is named."""

import bz2
import gzip
import json
import lzma
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from megamini.data.corpus.chunks import CHUNK_CHARACTERS, cut_text
from megamini.data.corpus.documents import Layout, Unit, find_files, plan_units, read_chunks
from megamini.errors import UserError
from tests.data.texts import documents, write_json_lines, write_text

BLANK_LINE = Layout()
COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


def read(files: list[Path], layout: Layout = BLANK_LINE, unit_bytes: int = 2**26) -> list[str]:
    """The documents of `files`, their chunks joined again."""
    texts: list[str] = []
    whole = True
    for unit in plan_units(find_files([str(file) for file in files]), layout, unit_bytes):
        for chunk in read_chunks(unit, layout):
            assert (chunk.key is not None) == whole, "the first chunk of a document, and only that, has a key"
            texts = [*texts, chunk.text] if whole else [*texts[:-1], texts[-1] + chunk.text]
            whole = chunk.last
        assert whole, "a document belongs to one unit"
    return texts


def write_parquet(path: Path, texts: list[str], rows: int = 7) -> Path:
    pa.parquet.write_table(pa.table({"text": texts, "other": list(range(len(texts)))}), path, row_group_size=rows)
    return path


def test_formats_and_compressions_give_the_same_documents(tmp_path):
    texts = documents(40)
    one_line = [text.replace("\n", " ") for text in texts]
    write_text(tmp_path / "a.txt", texts)
    (tmp_path / "crlf.txt").write_bytes("\r\n\r\n".join(one_line).encode())
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf" + "\n \n\n".join(texts).encode())
    write_json_lines(tmp_path / "a.jsonl", texts)
    write_parquet(tmp_path / "a.parquet", texts)
    (tmp_path / "lines.txt").write_text("\n".join(one_line))
    assert read([tmp_path / "a.txt"]) == texts
    assert read([tmp_path / "bom.txt"]) == texts
    assert read([tmp_path / "crlf.txt"]) == one_line
    assert read([tmp_path / "a.jsonl"]) == texts
    assert read([tmp_path / "a.parquet"]) == texts
    assert read([tmp_path / "lines.txt"], Layout(documents="line")) == one_line
    for suffix, compress in COMPRESS.items():
        for name in ("a.txt", "a.jsonl"):
            (tmp_path / (name + suffix)).write_bytes(compress((tmp_path / name).read_bytes()))
            assert read([tmp_path / (name + suffix)]) == texts, (name, suffix)


def test_files_of_several_compressed_members_are_read_to_the_end(tmp_path):
    texts = documents(10)
    for suffix, compress in COMPRESS.items():
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(b"".join(compress(f"{text}\n\n".encode()) for text in texts))
        assert read([path]) == texts, suffix


@pytest.mark.parametrize("unit_bytes", [1, 17, 100, 1_000, 10_000])
def test_units_of_any_size_hold_every_document_once(tmp_path, unit_bytes):
    texts = documents(60)
    files = [
        write_text(tmp_path / "a.txt", texts),
        write_json_lines(tmp_path / "b.jsonl", texts),
        write_parquet(tmp_path / "c.parquet", texts),
    ]
    assert read(files, unit_bytes=unit_bytes) == texts * 3
    units = plan_units(files, Layout(), unit_bytes)
    assert len(units) >= 3 + (unit_bytes < 10_000) * 3
    lines = [line for text in texts for line in text.split("\n")]
    assert read(files[:1], Layout(documents="line"), unit_bytes) == lines


def test_one_huge_document_takes_constant_memory_and_loses_nothing(tmp_path):
    path = tmp_path / "huge.txt"
    line = "words without end " * 40
    with path.open("w") as file:
        for _ in range(20_000):
            file.write(line + "\n")
        file.write("很" * (3 * CHUNK_CHARACTERS))
    (unit,) = plan_units([path], Layout())
    tracemalloc.start()
    chunks, characters = 0, 0
    for chunk in read_chunks(unit, Layout()):
        assert len(chunk.text) <= CHUNK_CHARACTERS
        chunks, characters = chunks + 1, characters + len(chunk.text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert characters == 20_000 * (len(line) + 1) + 3 * CHUNK_CHARACTERS
    assert chunks > 100
    assert peak < 12 * 2**20  # the file has 15 MB


def test_cuts_fall_before_white_space_wherever_there_is_some():
    text = "ab  cde \n f" * 50 + "x" * 30 + " y"
    for characters in (5, 8, 13):
        parts = list(cut_text(text, characters))
        assert "".join(parts) == text
        for before, after in pairwise(parts):
            assert len(before) <= characters
            assert after[0].isspace() or not set(before[1:]) & {" ", "\n"}


def test_globs_are_sorted_and_nothing_is_read_twice(tmp_path):
    for name in ("b.txt", "a.txt", "c.txt"):
        write_text(tmp_path / name, [name])
    found = find_files([str(tmp_path / "c.txt"), str(tmp_path / "*.txt")])
    assert [file.name for file in found] == ["c.txt", "a.txt", "b.txt"]


def test_ids_are_the_keys_where_there_are_some(tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", ["one", "two", "three"], id=["x", 7, None])
    (unit,) = plan_units([path], Layout())
    assert [chunk.key for chunk in read_chunks(unit, Layout())] == ["x", "7", "three"]


def bad_inputs(folder: Path) -> dict[str, tuple[Path, str]]:
    """name -> (file, what the message must say besides the file's name)."""
    good = json.dumps({"text": "fine"}).encode()
    text = "".join(documents(50)).encode()
    contents = {
        "empty.txt": (b"", "empty"),
        "latin.txt": (b"one\ntwo\nM\xfcller\n", "line 3"),
        "cut.txt": ("caf\u00e9".encode()[:-1], "inside a character"),
        "torn.jsonl": (good + b"\n" + good + b"\n" + good[:9], "line 3"),
        "list.jsonl": (good + b"\n[1]\n", "line 2: not a JSON object"),
        "column.jsonl": (b'{"body": "x", "url": "y"}\n', "body, url"),
        "number.jsonl": (good + b'\n{"text": 5}\n', "line 2: the text is int"),
        "bytes.jsonl": (good + b'\n{"text": "\xff"}\n', "line 2: not valid UTF-8"),
        "half.jsonl": (good + b'\n{"text": "\\ud83d"}\n', "line 2: the text holds half a surrogate"),
        "torn.txt.gz": (gzip.compress(text)[:-20], "torn"),
        "not.txt.gz": (text, "torn or invalid"),
        "torn.txt.bz2": (bz2.compress(text)[:-20], "torn"),
        "not.txt.bz2": (text, "torn or invalid"),
        "torn.txt.xz": (lzma.compress(text)[:-20], "torn"),
        "not.txt.xz": (text, "torn or invalid"),
        "torn.txt.zst": (zstandard.compress(text)[:-20], "torn"),
        "not.txt.zst": (text, "torn or invalid"),
        "latin.txt.gz": (gzip.compress(b"one\ntwo\nM\xfcller\n"), "line 3"),
        "not.parquet": (text, "Parquet"),
        "a.parquet.gz": (b"x", "decompress"),
        "a.docx": (b"x", "cannot tell the format"),
        "a.jsnl": (b"x", "did you mean '.jsonl'"),
        "noextension": (b"x", "cannot tell the format"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    pa.parquet.write_table(pa.table({"body": ["x"], "n": [1]}), folder / "column.parquet")
    pa.parquet.write_table(pa.table({"text": [1, 2]}), folder / "numbers.parquet")
    messages = {name: message for name, (_, message) in contents.items()}
    messages |= {"column.parquet": "body, n", "numbers.parquet": "row 1: the text is int", "gone.txt": "no such file"}
    return {name: (folder / name, message) for name, message in messages.items()}


def test_bad_input_is_one_line_that_names_the_file(tmp_path):
    for file, message in bad_inputs(tmp_path).values():
        with pytest.raises(UserError) as caught:
            read([file])
        assert file.name in str(caught.value), file
        assert message in str(caught.value), (file, str(caught.value))
        assert "\n" not in str(caught.value), file


def test_line_numbers_hold_in_every_unit(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good line\n\n" * 500 + b"bad \xff\n")
    units = plan_units([path], Layout(), 1_000)
    assert len(units) > 4
    with pytest.raises(UserError, match="line 1001: not valid UTF-8"):
        for unit in units:
            list(read_chunks(unit, Layout()))


def test_a_file_that_goes_away_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.txt: the file is gone"):
        list(read_chunks(Unit(str(tmp_path / "a.txt"), "text", 0, None, 1), Layout()))

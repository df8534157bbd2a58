"""Task files as real programs write them: byte order marks, quoting, half surrogates, links, odd bytes."""

import csv
import io
import json
from pathlib import Path

import pytest

from megamini.downstream.evaluation.retrieval import read_pages
from megamini.downstream.task_data.examples import TaggedExample, TextExample
from megamini.downstream.task_data.rows import read_cells
from megamini.downstream.tasks.custom import custom_task
from megamini.downstream.tasks.registry import TASKS
from megamini.errors import UserError
from tests.downstream.workplace import write

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
MARK = "\ufeff"
CONLLU = "1\tzu\tzu\tADP\t_\t_\t_\t_\t_\t_\n\n"
SQUAD = json.dumps({"data": [{"paragraphs": [{"context": "Am Rhein", "qas": [
    {"id": "1", "question": "Wo?", "answers": [{"text": "Rhein", "answer_start": 3}]}]}]}]})  # fmt: skip


def custom(kind: str, name: str, *columns: str):
    return custom_task("mine", kind, {"test": name}, columns)


# --- byte order mark: each file is read as without it ---------------------------------------------------------------

MARKED = {
    "tsv": (TASKS["xnli"], "test-de.tsv", "Eins\tZwei\tneutral\n"),
    "tsv with a header": (TASKS["sib200"], "deu_Latn/test.tsv", "category\ttext\ntravel\tEin Zug\n"),
    "tsv without a mark in its quotes": (TASKS["sib200"], "de/test.tsv", '"category"\t"text"\n"travel"\t"Ein Zug"\n'),
    "json lines": (TASKS["libreoffice"], "libreoffice-help.de.jsonl",
                   '{"id": "swriter/8.html", "text": "Seite", "label": "swriter"}\n'),
    "squad": (TASKS["xquad"], "xquad.de.json", SQUAD),
    "conllu": (TASKS["ud_pos"], "de_x-ud-test.conllu", CONLLU),
    "conllu with a comment": (TASKS["ud_pos"], "de_x-ud-test.conllu", f"# text = zu\n{CONLLU}"),
    "panx": (TASKS["panx"], "test-de.tsv", "Ada\tB-PER\n"),
    "panx with the language in front": (TASKS["panx"], "de/test", "de:Ada\tB-PER\n"),
    "conll": (custom("tagging", "a.conll"), "a.conll", "Ada B-PER\n"),
    "custom tsv": (custom("classification", "a.tsv"), "a.tsv", "Gut\tja\n"),
    "custom tsv with a header": (custom("classification", "a.tsv", "text", "label"), "a.tsv", "text\tlabel\nGut\tja\n"),
    "custom json lines": (custom("classification", "a.jsonl"), "a.jsonl", '{"text": "Gut", "label": "ja"}\n'),
}  # fmt: skip


@pytest.mark.parametrize("case", MARKED)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_text(case, ends, tmp_path, monkeypatch):
    monkeypatch.setattr("megamini.downstream.tasks.topics.is_test_page", lambda page: True)
    task, name, content = MARKED[case]
    write(tmp_path / "without" / name, content)
    write(tmp_path / "with" / name, "")
    (tmp_path / "with" / name).write_bytes((MARK + content.replace("\n", ends)).encode())
    plain = task.read(tmp_path / "without", "test", "de")
    assert MARK not in repr(plain)
    assert task.read(tmp_path / "with", "test", "de") == plain


def test_a_byte_order_mark_before_pages_to_retrieve(tmp_path):
    write(tmp_path / "pages.de.jsonl", f'{MARK}{{"id": "1", "text": "Seite"}}\n')
    assert read_pages(str(tmp_path / "pages.{language}.jsonl"), "de") == {"1": "Seite"}


# --- quoting --------------------------------------------------------------------------------------------------------


def topics(*texts: str) -> str:
    """As the release is written: by a writer of CSV with tabs."""
    content = io.StringIO()
    rows = csv.writer(content, delimiter="\t", lineterminator="\n")
    rows.writerows([["index_id", "category", "text"], *([n, "travel", text] for n, text in enumerate(texts))])
    return content.getvalue()


QUOTED = ['"She is cute," he said.', "Plain.", '"All of it."', 'In "the" middle', "It's", '""', 'a\tb "c"']


def test_cells_that_readers_of_csv_refuse(tmp_path):
    """A carriage return in a cell, and one of more than 131,072 characters."""
    texts = ['a "b" c', "a\rb", "long " * 50_000]
    write(tmp_path / "eng_Latn/test.tsv", "")
    content = "category\ttext\n" + "".join(f"travel\t{text}\n" for text in ['"a ""b"" c"', *texts[1:]])
    (tmp_path / "eng_Latn/test.tsv").write_bytes(content.encode())
    assert [one.texts[0] for one in TASKS["sib200"].read(tmp_path, "test", "en")] == texts


def test_sib_200_is_quoted_as_csv(tmp_path):
    content = topics(*QUOTED)
    assert '"""She is cute,"" he said."' in content
    write(tmp_path / "eng_Latn/test.tsv", content)
    read = TASKS["sib200"].read(tmp_path, "test", "en")
    assert [example.texts for example in read] == [(text,) for text in QUOTED]


LITERAL = {
    "quotes inside": ['Und er sagte: "Mama'],
    "a cell that is a quote": ['"', "x"],
    "opened, not closed": ['"Ja, sagte er.', '"""doubled"" by chance"'],
    "quoted by its author": ['"Ja."', "Nein."],
    "closed in the middle": ['"Ja", sagte er.', "x"],
}


@pytest.mark.parametrize("case", LITERAL)
def test_without_csvs_quoting_quotes_are_text(case, tmp_path):
    """XNLI and MultiNLI are written without any quoting."""
    texts = LITERAL[case]
    write(tmp_path / "test-de.tsv", "".join(f"{text}\tZwei\tneutral\n" for text in texts))
    assert [one.texts[0] for one in TASKS["xnli"].read(tmp_path, "test", "de")] == texts
    write(tmp_path / "own.tsv", "".join(f"{text}\tyes\n" for text in texts))
    assert [one.texts[0] for one in custom("classification", "own.tsv").read(tmp_path, "test", "de")] == texts
    write(tmp_path / "panx/test-de.tsv", "".join(f"{text}\tO\n" for text in texts))
    assert TASKS["panx"].read(tmp_path / "panx", "test", "de")[0].words == tuple(texts)


def test_every_cell_in_quotes_is_quoted_too(tmp_path):
    write(tmp_path / "own.tsv", '"Gut"\t"ja"\n"Nicht gut"\t"nein"\n')
    read = custom("classification", "own.tsv").read(tmp_path, "test", "de")
    assert read == [TextExample(("Gut",), "ja"), TextExample(("Nicht gut",), "nein")]


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data, where the real task files lie")
def test_quoting_of_the_real_files():
    """As a reader of CSV and a split by tabs read them: SIB-200 and some of PAWS-X are quoted, XNLI and PAN-X not."""
    for path in sorted(DATA.glob("sib200/*/*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))
        assert [cells for _, cells in read_cells(path, 3)] == rows
    for path in [*DATA.glob("xnli/*-*.tsv"), *DATA.glob("pawsx/*.tsv")]:
        lines = path.read_text(encoding="utf-8").split("\n")
        quoted = any(cell.startswith('"') for line in lines for cell in line.split("\t"))
        rows = list(csv.reader(lines, delimiter="\t")) if quoted else [line.split("\t") for line in lines]
        assert [cells for _, cells in read_cells(path, 3)] == [row for row in rows if any(row)]
        assert not any('""' in cell for row in rows for cell in row if path.parent.name == "pawsx")
    sib = [TASKS["sib200"].read(DATA / "sib200", split, "en") for split in ("train", "dev", "test")]
    assert [len(examples) for examples in sib] == [701, 99, 204]


# --- half surrogates, other bytes -----------------------------------------------------------------------------------

OWN = custom("classification", "a.jsonl")
HALVES = {
    "texts": (OWN, "a.jsonl", [{"text": "Gut", "label": "a"}, {"text": "\ud83d", "label": "a"}], "row 2: 'text'"),
    "a label": (OWN, "a.jsonl", [{"text": "Gut", "label": "\udc00"}], "row 1: 'label'"),
    "own columns": (
        custom("classification", "a.jsonl", "q", "y"), "a.jsonl", [{"q": "x\ud83d y", "y": "a"}], "row 1: 'q'",
    ),
    "pages": (
        TASKS["libreoffice"], "libreoffice-help.de.jsonl", [{"id": "1", "text": "\ud83d", "label": "swriter"}],
        "row 1: 'text'",
    ),
    "xnli": (
        TASKS["xnli"], "xnli.test.jsonl",
        [{"language": "de", "gold_label": "neutral", "sentence1": "\ud83d", "sentence2": "x"}], "row 1: 'sentence1'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HALVES)
def test_half_a_surrogate_pair_is_one_line_with_its_row(case, tmp_path):
    task, name, rows, words = HALVES[case]
    path = write(tmp_path / name, "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as caught:
        task.read(tmp_path, "test", "de")
    assert str(caught.value).startswith(f"{path}: {words} holds half a surrogate pair")


def test_a_whole_pair_is_a_character(tmp_path):
    write(tmp_path / "a.jsonl", '{"text": "\\ud83d\\ude00", "label": "a"}\n')
    assert custom("classification", "a.jsonl").read(tmp_path, "test", "de")[0].texts == ("\U0001f600",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"Gut\tja\nSch\xf6n\tja\n", "row 2: not UTF-8 text (byte 3 of the row)"),
        (b"Gut\tja\n\xed\xa0\xbd\tja\n", "row 2: not UTF-8 text (byte 0 of the row)"),
        ("Gut\tja\n".encode("utf-16"), "row 1: not UTF-8 text (it begins as UTF-16 does); save the file as UTF-8"),
    ],
)
def test_other_bytes_name_the_row(content, words, tmp_path):
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tsv: ") as caught:
        custom("classification", "a.tsv").read(tmp_path, "test", "de")
    assert words in str(caught.value)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000 + "]" * 100_000])
def test_json_beyond_what_python_reads_names_the_row(value, tmp_path):
    write(tmp_path / "a.jsonl", f'{{"text": "Gut", "label": "ja", "more": {value}}}\n')
    with pytest.raises(UserError, match=r"a.jsonl: row 1: not valid JSON"):
        custom("classification", "a.jsonl").read(tmp_path, "test", "de")
    write(tmp_path / "xquad.de.json", f'{{"data": {value}}}')
    with pytest.raises(UserError, match=r"xquad.de.json: not a file in SQuAD's format"):
        TASKS["xquad"].read(tmp_path, "test", "de")


# --- links ----------------------------------------------------------------------------------------------------------


def test_links_to_files_and_folders_are_followed_once(tmp_path):
    write(tmp_path / "store/de/test", "de:Ada\tB-PER\n")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "panx").symlink_to(tmp_path / "store")
    (folder / "again").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "round").symlink_to(folder)  # a circle
    (folder / "itself").symlink_to(folder / "itself")
    assert TASKS["panx"].read(folder, "test", "de") == [TaggedExample(("Ada",), ("B-PER",))]
    (folder / "test-de.tsv").symlink_to(tmp_path / "store/de/test")
    assert TASKS["panx"].read(folder, "test", "de") == [TaggedExample(("Ada",), ("B-PER",))]
    (folder / "test-es.tsv").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="no test data of panx in language 'es'"):
        TASKS["panx"].read(folder, "test", "es")

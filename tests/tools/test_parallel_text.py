"""tools/parallel_text.py: pages become two aligned files, without what is tested on."""

import json
import runpy
import sys

import pytest

from megamini.adaptation.starting_points.parallel_text import read_parallel
from megamini.downstream.tasks.topics import is_test_page

TESTED = next(f"page-{n}" for n in range(99) if is_test_page(f"page-{n}"))
KEPT = [f"page-{n}" for n in range(99) if not is_test_page(f"page-{n}")][:4]


def pages(path, texts):
    path.write_text("".join(json.dumps({"id": page, "text": text}) + "\n" for page, text in texts.items()))
    return str(path)


def make(*arguments):
    sys.argv = ["tools/parallel_text.py", *arguments]
    runpy.run_path("tools/parallel_text.py", run_name="__main__")


def test_lines_of_pages_are_paired(tmp_path, capsys):
    ours = {KEPT[0]: "eins\nzwei\nOK", KEPT[1]: "drei\nvier", KEPT[2]: "eins", KEPT[3]: "nur hier", TESTED: "geprüft"}
    theirs = {KEPT[0]: "one\ntwo \t 2\nOK", KEPT[1]: "three", KEPT[2]: "one", TESTED: "tested"}
    files = pages(tmp_path / "help.de.jsonl", ours), pages(tmp_path / "help.en.jsonl", theirs)
    make(*files, "--out", str(tmp_path / "out/parallel"))
    written = tuple(str(tmp_path / f"out/parallel.{language}.txt") for language in ("de", "en"))
    assert read_parallel(written) == [("eins", "one"), ("zwei", "two 2")]
    assert "2 lines of 2" in capsys.readouterr().out
    make(*files, "--out", str(tmp_path / "out/parallel"), "--lines", "1")
    assert read_parallel(written) == [("eins", "one")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("help.jsonl", "{}", "expected NAME.LANG.jsonl of two languages"),
        ("help.en.jsonl", '{"id": "x", "text": "y"}\n', "expected NAME.LANG.jsonl of two languages"),
        ("help.de.jsonl", '{"id": "x", "text": "y"}\n', "no page is in both with as many lines"),
        ("help.de.jsonl", '{"id": "x"}\n', "help.de.jsonl: line 1: expected"),
        ("help.de.jsonl", "torn", "help.de.jsonl: line 1: expected"),
    ],
)
def test_other_files_end_in_one_line(name, content, message, tmp_path, capsys):
    source = pages(tmp_path / "other.en.jsonl", {KEPT[0]: "one"})
    (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit) as ended:
        make(str(tmp_path / name), source, "--out", str(tmp_path / "out"))
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))

"""tools/word_list.py: PanLex's tables become a word list; what is odd in them is told in one line."""

import runpy
import sys
import zipfile

import pytest

from megamini.adaptation.starting_points.lexicon import read_lexicon

TABLES = {
    "langvar": "id,lang_code,var_code,mutable\n1,deu,0,t\n2,eng,0,t\n3,deu,1,t\n4,ell,0,t\n5,fra,0,t\n",
    "expr": (
        'id,langvar,txt,txt_degr\n10,1,Haus,haus\n11,3,Heim,heim\n12,1,"Guten\tTag, Welt",x\n20,2,house,house\n'
        "21,2,home,home\n22,2,hello,hello\n30,4,σπίτι,σπιτι\n40,5,maison,maison\n"
    ),
    "denotation": (
        "id,meaning,expr\n1,100,10\n2,100,21\n3,101,10\n4,101,20\n5,102,10\n6,102,20\n7,103,11\n8,103,21\n9,104,12\n"
        "10,104,22\n11,105,40\n12,105,20\n13,106,30\n"
    ),
}


def write(folder, **changes):
    folder.mkdir(exist_ok=True)
    for table, text in (TABLES | changes).items():
        if text is not None:
            (folder / f"{table}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def make(*arguments):
    sys.argv = ["tools/word_list.py", *map(str, arguments)]
    runpy.run_path("tools/word_list.py", run_name="__main__")


def test_words_of_one_meaning_are_translations(tmp_path, capsys):
    release, out = write(tmp_path / "panlex-20240301-csv"), tmp_path / "out/words.tsv"
    make(release, "--languages", "de", "en", "--out", out)
    # Two meanings say house, one says home; both varieties of German count.
    assert out.read_text().splitlines() == ["Guten Tag, Welt\thello", "Haus\thouse", "Haus\thome", "Heim\thome"]
    assert "4 translations of 3 words" in capsys.readouterr().out
    assert read_lexicon(out, match_case=True)["Haus"] == ["house", "home"]
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        for table in release.iterdir():
            archive.write(table, f"panlex-20240301-csv/{table.name}")
    make(tmp_path / "release.zip", "--languages", "deu", "eng", "--out", tmp_path / "again.tsv")
    assert (tmp_path / "again.tsv").read_bytes() == out.read_bytes()


def test_odd_rows_are_counted_and_said_in_one_line(tmp_path, capsys):
    expr = TABLES["expr"] + "50,1\nx,1,Baum,baum\n51,1,Tisch,tisch\n"
    make(write(tmp_path / "p", expr=expr), "--languages", "de", "en", "--out", tmp_path / "words.tsv")
    said = [line for line in capsys.readouterr().out.splitlines() if "passed over" in line]
    assert len(said) == 1 and "expr.csv: 2 of 11 rows are passed over, the first is line 10: '50,1'" in said[0]


@pytest.mark.parametrize(
    ("changes", "languages", "message"),
    [
        ({}, ("xx", "en"), "has no words of 'xx'"),
        ({}, ("el", "en"), "no meaning has words of both 'el' and 'en'"),
        ({"expr": None}, ("de", "en"), "expr.csv: No such file"),
        ({"expr": "number,text\n1,Haus\n"}, ("de", "en"), "has no column id and no langvar and no txt"),
        ({"langvar": ""}, ("de", "en"), "langvar.csv: has no column id"),
        ({"expr": b"id,langvar,txt\n10,1," + b"\xff\n"}, ("de", "en"), "expr.csv: cannot be read"),
    ],
)
def test_other_tables_end_in_one_line(changes, languages, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        make(write(tmp_path / "p", **changes), "--languages", *languages, "--out", tmp_path / "words.tsv")
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1


def zipped(folder, change=lambda content: content, **kinds):
    """The tables as one zip whose bytes `change` has changed."""
    with zipfile.ZipFile(folder / "release.zip", "w", **kinds) as archive:
        for table, text in TABLES.items():
            archive.writestr(f"{table}.csv", text)
    file = folder / "release.zip"
    file.write_bytes(change(bytearray(file.read_bytes())))
    return file


def with_flag(content):
    """Each member says that it has a password."""
    for place in (n for n in range(len(content)) if content[n : n + 4] in (b"PK\1\2", b"PK\3\4")):
        content[place + (8 if content[place + 2] == 1 else 6)] |= 1
    return content


def with_method(content):
    """Each member says that it has a compression of number 250."""
    for place in (n for n in range(len(content)) if content[n : n + 4] in (b"PK\1\2", b"PK\3\4")):
        content[place + (10 if content[place + 2] == 1 else 8)] = 250
    return content


@pytest.mark.parametrize("change", [with_flag, with_method, lambda content: content[:-30]])
def test_a_zip_that_cannot_be_opened_is_one_line(change, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        make(zipped(tmp_path, change), "--languages", "de", "en", "--out", tmp_path / "words.tsv")
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "release.zip: cannot be read as a zip" in error and error.count("\n") == 1


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_one_line_or_another_list(kind, tmp_path, capsys):
    """Any one byte changed: never a traceback."""
    size, ended_well = len(zipped(tmp_path, compression=kind).read_bytes()), 0
    for place in range(0, size, 3):

        def change(content, place=place):
            content[place] ^= 0xFF
            return content

        try:
            make(zipped(tmp_path, change, compression=kind), "--languages", "de", "en", "--out", tmp_path / "words.tsv")
            ended_well += 1
        except SystemExit as ended:
            error = capsys.readouterr().err
            assert ended.code == 2 and error.startswith("error: ") and error.count("\n") == 1, (place, error)
    assert ended_well < size / 3


def test_numbers_that_are_none_of_ours_are_passed_over(tmp_path, capsys):
    expr = TABLES["expr"] + f"{'9' * 5000},1,Baum,baum\n٥١,1,Tisch,tisch\n"
    make(write(tmp_path / "p", expr=expr), "--languages", "de", "en", "--out", tmp_path / "words.tsv")
    assert "expr.csv: 2 of 10 rows are passed over, the first is line 10: '999" in capsys.readouterr().out


@pytest.mark.parametrize(("content", "message"), [(b"text", "cannot be read as a zip"), (None, "No such file")])
def test_what_is_no_release_is_said(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "release.zip").write_bytes(content)
    with pytest.raises(SystemExit):
        make(tmp_path / "release.zip", "--languages", "de", "en", "--out", tmp_path / "words.tsv")
    assert message in capsys.readouterr().err

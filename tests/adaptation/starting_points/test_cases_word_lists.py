"""Cases of real people's word lists."""

import pytest

from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.errors import UserError

PAIRS = [
    ("Haus", "house"),
    ("Baum", "tree"),
    ("straße", "street"),
    ("мир", "world"),
    ("你好", "hello"),
    ("Brot", "bread"),
]


def written(tmp_path, lines, name="de-en.txt", end="\n"):
    path = tmp_path / name
    path.write_bytes(end.join(lines).encode() + end.encode())
    return path


@pytest.mark.parametrize("between", [" ", "  ", "\t", " \t ", "\u00a0", "\u3000"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_a_list_of_muse_is_read(between, end, tmp_path):
    path = written(tmp_path, [between.join(pair) for pair in PAIRS], end=end)
    assert read_lexicon(path, match_case=True) == {target: [source] for target, source in PAIRS}


@pytest.mark.parametrize("odd", ["Haus", "Haus ", "guten Tag hello", " house", "a b c d"])
def test_odd_lines_are_counted_and_said(odd, tmp_path):
    path = written(tmp_path, [*(" ".join(pair) for pair in PAIRS), odd, odd])
    said = []
    assert len(read_lexicon(path, match_case=True, say=said.append)) == len(PAIRS)
    assert len(said) == 1 and "2 of 8 lines are passed over, the first is line 7" in said[0] and odd.strip() in said[0]


@pytest.mark.parametrize("between", ["\t", " \t", "\t\t"])
def test_a_few_tabs_among_spaces_are_white_space(between, tmp_path):
    path = written(tmp_path, [*(" ".join(pair) for pair in PAIRS), f"Weg{between}way"])
    assert read_lexicon(path, match_case=True) == {target: [source] for target, source in [*PAIRS, ("Weg", "way")]}


@pytest.mark.parametrize("odd", ["Haus", "Haus\t", "\thouse", "Haus house", "Haus\thouse\tN", "\t"])
def test_odd_lines_of_a_list_with_tabs(odd, tmp_path, capsys):
    path = written(tmp_path, [*("\t".join(pair) for pair in PAIRS), "guten Tag\tgood day", odd])
    words = read_lexicon(path, match_case=True)
    assert words["guten Tag"] == ["good day"] and len(words) == 7
    assert ("1 of 8 lines are passed over" in capsys.readouterr().out) == bool(odd.strip())


@pytest.mark.parametrize(
    "lines, name",
    [
        (["Haus house"] * 3, "de.tsv"),  # by its name there are tabs
        (["Haus"] * 3, "de.txt"),
        (["Das Haus ist groß", "Der Baum auch nicht", "Haus house"], "de.txt"),
        (["Haus house", "Baum"], "de.txt"),
        ([""], "de.txt"),
        (["<html>", "<body>", "x y"], "de.txt"),
    ],
)
def test_what_is_no_word_list_is_refused(lines, name, tmp_path):
    with pytest.raises(UserError, match=rf"^[^\n]*{name}: [^\n]*TAB[^\n]*$"):
        read_lexicon(written(tmp_path, lines, name))


def test_a_list_in_another_encoding_names_the_line(tmp_path):
    path = tmp_path / "de.txt"
    path.write_bytes(b"Haus house\n" + "stra\xdfe street\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"de.txt: line 2: not valid UTF-8"):
        read_lexicon(path)


def test_a_byte_order_mark_is_no_letter(tmp_path):
    assert "Haus" in read_lexicon(written(tmp_path, ["\ufeffHaus house", "Baum tree"]), match_case=True)

"""tools/translate_words.py: pseudo text and pseudo labelled data, the same each time, and what it refuses."""

import json
import runpy
import sys

import pytest

from megamini.commands.translate_words import pseudo_text
from megamini.commands.translate_words.translator import Translator, drawing
from megamini.data.blocks import load_manifest
from megamini.data.preparation.prepare import Settings, prepare
from megamini.downstream.task_data.examples import QuestionExample, TaggedExample, TextExample
from megamini.downstream.tasks.custom import custom_task
from megamini.downstream.tasks.registry import TASKS
from megamini.languages.words import sentences
from tests.downstream.workplace import PROSE

LIST = "das\tthe\ndie\tthe\nMühle\tmill\nam Fluss\tby the river\nGlocke\tbell\nist\tis\nalt\told\nund\tand\n"


@pytest.fixture
def lexicon(tmp_path):
    (tmp_path / "de.tsv").write_text(LIST, encoding="utf-8")
    return str(tmp_path / "de.tsv")


def run(*arguments):
    sys.argv = ["tools/translate_words.py", *map(str, arguments)]
    runpy.run_path("tools/translate_words.py", run_name="__main__")


def pages(path):
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


# --- words ------------------------------------------------------------------------------------------------------------


def test_listed_words_are_translated_in_the_case_of_the_text_and_others_stay(lexicon):
    text, count = Translator(lexicon).text("The mill BY THE RIVER, and THE big bell.", drawing(0, "x"))
    assert count == 6
    words = text.split()
    assert words[0] in ("Das", "Die") and words[1:4] == ["Mühle", "AM", "FLUSS,"] and words[4] == "und"
    assert words[5] in ("DAS", "DIE") and words[6:] == ["big", "Glocke."]


def test_translations_are_drawn_for_each_occurrence(lexicon):
    text, count = Translator(lexicon).text("the " * 60, drawing(0, "x"))
    assert count == 60 and set(text.split()) == {"das", "die"}
    assert Translator(lexicon).text("the " * 60, drawing(0, "x"))[0] == text
    assert Translator(lexicon).text("the " * 60, drawing(1, "x"))[0] != text


def test_sentences_are_those_of_unicode_and_of_lines():
    assert sentences("It is old. And the mill?\n\nYes, 3.5 m") == ["It is old.", "And the mill?", "Yes, 3.5 m"]


# --- text -------------------------------------------------------------------------------------------------------------


def test_sentences_with_enough_words_are_kept_and_the_share_is_told(tmp_path, lexicon, capsys):
    (tmp_path / "en.txt").write_text("The mill is old. Bells ring loudly.\n\nNothing here.\n\nthe bell and the mill\n")
    run("--text", tmp_path / "en.txt", "--lexicon", lexicon, "--out", tmp_path / "out.jsonl")
    first, second = pages(tmp_path / "out.jsonl")
    assert first.split()[1:] == ["Mühle", "ist", "alt."] and second.split()[1] == "Glocke"
    said = capsys.readouterr().out
    assert "2 of 3 documents; 2 of 4 sentences; 9 of their 9 words are translated (100%)" in said
    run("--text", tmp_path / "en.txt", "--lexicon", lexicon, "--out", tmp_path / "out.jsonl", "--least", "5")
    assert len(pages(tmp_path / "out.jsonl")) == 1


def test_any_number_of_processes_gives_the_same_bytes(tmp_path, lexicon, monkeypatch):
    monkeypatch.setattr(pseudo_text, "_UNIT_BYTES", 4_000)
    lines = [line for line in PROSE.read_text(encoding="utf-8").splitlines() if line]
    (tmp_path / "en.txt").write_text("\n\n".join(f"{n} {line}" for n in range(5) for line in lines))
    for count in (1, 3):
        out = tmp_path / f"{count}.jsonl"
        run("--text", tmp_path / "en.txt", "--lexicon", lexicon, "--out", out, "--processes", count)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "3.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.jsonl", "3.jsonl", "de.tsv", "en.txt"]
    settings = Settings("de", 420, block_length=32, validation_share=0.2)
    prepare([str(tmp_path / "1.jsonl")], tmp_path / "data", settings, processes=1)
    assert load_manifest(tmp_path / "data")["documents"] > 20


# --- labelled data ----------------------------------------------------------------------------------------------------


def test_classes_keep_their_labels(tmp_path, lexicon, capsys):
    folder = tmp_path / "sib200/en"
    folder.mkdir(parents=True)
    rows = ["the mill is old and tall", "the bell and the mill", "nothing of it"]
    table = "".join(f"{n}\ttravel\t{row}\n" for n, row in enumerate(rows))
    (folder / "train.tsv").write_text("index_id\tcategory\ttext\n" + table)
    out = tmp_path / "pseudo/train.de.jsonl"
    run("--task", "sib200", "--path", tmp_path / "sib200", "--lexicon", lexicon, "--out", out)
    assert "2 of 3 examples" in (said := capsys.readouterr().out) and "columns: [text, label]" in said
    task = custom_task("mine", "classification", {"train": "train.{language}.jsonl"}, ("text", "label"))
    read = task.read(tmp_path / "pseudo", "train", "de")
    assert [one.label for one in read] == ["travel", "travel"]
    assert read[0].texts[0].split()[1:] == ["Mühle", "ist", "alt", "und", "tall"]


def test_tags_stay_with_their_words(tmp_path, lexicon):
    (tmp_path / "panx").mkdir()
    words = [("the", "O"), ("mill", "B-LOC"), ("by the river", "O"), ("is", "O"), ("Old", "B-PER"), ("Tom", "I-PER")]
    (tmp_path / "panx/train-en.tsv").write_text("".join(f"en:{word}\t{tag}\n" for word, tag in words) + "\n")
    out = tmp_path / "train.de.conll"
    run("--task", "panx", "--path", tmp_path / "panx", "--lexicon", lexicon, "--out", out)
    (read,) = custom_task("mine", "tagging", {"train": "train.{language}.conll"}).read(tmp_path, "train", "de")
    assert isinstance(read, TaggedExample) and read.tags == tuple(tag for _, tag in words)
    assert read.words[1:] == ("Mühle", "by the river", "ist", "Alt", "Tom"), "a phrase of two words is no word"


def test_answers_are_found_where_they_are_now(tmp_path, lexicon):
    context = "The mill is old, and the bell by the river is old and loud."
    answer = {"text": "the bell by the river", "answer_start": context.index("the bell")}
    question = {"id": "1", "question": "What is old?", "answers": [answer]}
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad/train-v1.1.json").write_text(
        json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": [question]}]}]})
    )
    out = tmp_path / "train.de.json"
    run("--task", "squad", "--path", tmp_path / "squad", "--lexicon", lexicon, "--out", out)
    (read,) = custom_task("mine", "question-answering", {"train": "train.{language}.json"}).read(
        tmp_path, "train", "de"
    )
    (found,) = read.answers
    assert isinstance(read, QuestionExample) and found.text.split()[1:] == ["Glocke", "am", "Fluss"]
    assert read.context[found.start : found.start + len(found.text)] == found.text


def test_pairs_have_two_columns(tmp_path, lexicon):
    from megamini.commands.translate_words.pseudo_examples import translated_examples, write_examples

    pair = TextExample(("the mill is old", "the bell"), "neutral")
    kept, _ = translated_examples([pair], Translator(lexicon), 3, 0)
    write_examples(tmp_path / "train.de.jsonl", "classification", kept)
    columns = ("text", "text_pair", "label")
    task = custom_task("mine", "classification", {"train": "train.{language}.jsonl"}, columns)
    assert task.read(tmp_path, "train", "de") == kept and kept[0].texts[1].split()[1] == "Glocke"
    assert set(TASKS) >= {"sib200", "panx", "squad"}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--text", "en.txt", "--lexicon", "other.tsv", "--out", "o.jsonl"],
            "none of the text's 2 sentences has 3",
        ),
        (["--text", "de.txt", "--lexicon", "de.tsv", "--out", "o.jsonl"], "the wrong way round: its first column has"),
        (["--text", "en.txt", "--lexicon", "torn.tsv", "--out", "o.jsonl"], "torn.tsv: line 1: expected 'target word"),
        (["--text", "en.txt", "--lexicon", "empty.tsv", "--out", "o.jsonl"], "empty.tsv: an empty word list"),
        (["--text", "en.txt", "--lexicon", "gone.tsv", "--out", "o.jsonl"], "gone.tsv: No such file"),
        (["--text", "gone.txt", "--lexicon", "de.tsv", "--out", "o.jsonl"], "--text gone.txt: no such file"),
        (["--text", "en.txt", "--lexicon", "de.tsv", "--out", "o.txt"], "--out o.txt: JSON lines are written"),
        (
            ["--text", "en.txt", "--lexicon", "de.tsv", "--out", "o.jsonl", "--least", "0"],
            "--least 0: must be at",
        ),
        (["--task", "sib200", "--lexicon", "de.tsv", "--out", "o.jsonl"], "--task goes with --path"),
        (["--task", "sib", "--path", ".", "--lexicon", "de.tsv", "--out", "o.jsonl"], "unknown task 'sib'"),
        (["--task", "panx", "--path", ".", "--lexicon", "de.tsv", "--out", "o.jsonl"], "a file of tagging is .conll"),
        (["--lexicon", "de.tsv", "--out", "o.jsonl"], "--text"),
    ],
)
def test_bad_input_is_one_line(arguments, said, tmp_path, lexicon, capsys, monkeypatch):
    (tmp_path / "en.txt").write_text("The mill is old.\n\nThe bell and the mill.\n")
    (tmp_path / "de.txt").write_text("Die Mühle ist alt und die Glocke ist alt.\n")
    (tmp_path / "other.tsv").write_text("a\tzz\nb\tyy\n")
    (tmp_path / "torn.tsv").write_text("one column\n")
    (tmp_path / "empty.tsv").write_text("")
    tool = runpy.run_path("tools/translate_words.py")["main"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["translate_words.py", *arguments])
    from megamini.errors import run_command

    with pytest.raises(SystemExit) as ended:
        run_command(tool)
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and said in lines[-1]
    assert not list(tmp_path.glob("*o.jsonl*"))

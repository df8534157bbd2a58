"""Tasks for lm-eval: what is written is what its fields mean, and is read back by the library that it reads with."""

import re
import sys
from pathlib import Path

import datasets
import pytest
import yaml

from megamini.commands.likelihood_tasks.phrases import PHRASES
from megamini.commands.likelihood_tasks.questions import questions_of_text
from megamini.downstream.tasks.registry import find_task
from megamini.errors import UserError
from tools import likelihood_tasks

XNLI = "Er schläft.\tEr ist wach.\tcontradiction\nEr {schläft}.\tEr ruht.\tentailment\n"


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["tools/likelihood_tasks.py", *map(str, arguments)])
    likelihood_tasks.main()


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "xnli").mkdir()
    for language in ("de", "sw"):
        (tmp_path / f"xnli/test-{language}.tsv").write_text(XNLI, encoding="utf-8")
    (tmp_path / "pawsx").mkdir()
    (tmp_path / "pawsx/test-de.tsv").write_text("A b c.\tC b a.\t0\nA b.\tA, b.\t1\n", encoding="utf-8")
    pages = [" ".join(f"{letter}{number}" for number in range(70)) for letter in "abcdef"]
    (tmp_path / "text.de.txt").write_text("\n\n".join([*pages, "too short"]) + "\n", encoding="utf-8")
    return tmp_path


def read(folder: Path, name: str) -> tuple[dict, list[dict]]:
    """The declaration, and the questions as lm-eval loads them by it."""
    values = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    options = values["dataset_kwargs"] | {"cache_dir": str(folder / "cache")}
    return values, list(datasets.load_dataset(values["dataset_path"], **options)[values["test_split"]])


def test_a_labelled_task(data, monkeypatch, capsys):
    run(monkeypatch, "xnli", "--data", data / "xnli", "--languages", "de", "--out", data / "out")
    assert capsys.readouterr().out == f"{data}/out/megamini_xnli_de.yaml: 2 questions of 3 choices\n"
    values, questions = read(data / "out", "megamini_xnli_de")
    assert values["task"] == "megamini_xnli_de" and values["output_type"] == "multiple_choice"
    fields = ("doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter")
    assert [values[name] for name in fields] == ["{{context}}", "choices", "answer", " "]
    assert questions == [
        {"context": f"Er {verb}.\nStimmt dann auch: Er {other}.\nAntwort:", "choices": ["Ja", "Vielleicht", "Nein"],
         "answer": answer}
        for verb, other, answer in (("schläft", "ist wach", 2), ("{schläft}", "ruht", 0))
    ]  # fmt: skip
    run(monkeypatch, "pawsx", "--data", data / "pawsx", "--languages", "de", "--limit", 1, "--out", data / "out")
    _, questions = read(data / "out", "megamini_pawsx_de")
    assert [(one["choices"], one["answer"]) for one in questions] == [(["Nein", "Ja"], 0)]


def test_phrases_of_ones_own(data, monkeypatch):
    """A space at the end of the pattern is none before the answer's."""
    answers = {"entailment": "Ndiyo", "neutral": "Labda", "contradiction": "Hapana"}
    written = {"pattern": "{0} {1}? ", "answers": answers}
    (data / "phrases.sw.yaml").write_text(yaml.safe_dump(written))
    phrases = data / "phrases.{language}.yaml"
    run(monkeypatch, "xnli", "--data", data / "xnli", "--languages", "sw", "--phrases", phrases, "--out", data / "out")
    _, questions = read(data / "out", "megamini_xnli_sw")
    assert questions[0] == {
        "context": "Er schläft. Er ist wach.?", "choices": ["Ndiyo", "Labda", "Hapana"], "answer": 2,
    }  # fmt: skip


def test_every_phrase_that_comes_along_fits_its_task():
    for name, languages in PHRASES.items():
        for phrases in languages.values():
            assert tuple(phrases.answers) == find_task(name).labels
            assert len(set(phrases.answers.values())) == len(phrases.answers)
            texts = ("first", "second")[: 1 if name == "sib200" else 2]
            assert all(text in phrases.pattern.format(*texts) for text in texts)


def test_text_goes_on(data, monkeypatch, capsys):
    run(monkeypatch, "text", "--data", data / "text.{language}.txt", "--languages", "de", "--out", data / "out")
    assert "6 questions of 4 choices" in capsys.readouterr().out
    _, questions = read(data / "out", "megamini_text_de")
    for letter, question in zip("abcdef", questions, strict=True):
        assert question["context"] == " ".join(f"{letter}{number}" for number in range(35))
        right = " ".join(f"{letter}{number}" for number in range(35, 51))
        assert question["choices"][question["answer"]] == right
        assert len(set(question["choices"])) == 4
        assert all(choice.split()[0][1:] == "35" for choice in question["choices"])
    assert len({question["answer"] for question in questions}) > 1
    again = questions_of_text(str(data / "text.de.txt"), "de", 3)
    assert [question.context[0] for question in again] == ["a", "c", "e"]


BAD = {
    "no phrases": (("xnli", "xnli", "sw"), "--languages sw: phrases of xnli come along in en, de, es, ru alone; write"),
    "no data": (("pawsx", "xnli", "de"), "no test data|expected|columns|label"),
    "no such code": (("xnli", "xnli", "german!"), "--languages"),
    "no text": (("text", "none.{language}.txt", "de"), r"none\.de\.txt: no such file"),
    "limit": (("xnli", "xnli", "de", "--limit", "0"), "--limit 0: must be at least 1"),
    "one text of two": (
        ("text", "text.de.txt", "de", "--languages", "de", "en"),
        r"would be the text of de and en; put {",
    ),
    "split of text": (("text", "text.de.txt", "de", "--split", "test"), "--split: goes with labelled tasks"),
    "phrases of text": (("text", "text.de.txt", "de", "--phrases", "x"), "--phrases: goes with labelled tasks"),
}


@pytest.mark.parametrize("arguments, words", BAD.values(), ids=BAD)
def test_bad_input(arguments, words, data, monkeypatch):
    task, path, language, *more = arguments
    with pytest.raises(UserError, match=words):
        run(monkeypatch, task, "--data", data / path, "--languages", language, "--out", data / "out", *more)


PHRASE_FILES = {
    "not there": (None, "No such file"),
    "torn": ("pattern: [", "not valid YAML"),
    "other keys": ("pattern: '{0} {1}'", "needs the two keys pattern and answers"),
    "one text": ("pattern: '{0}'\nanswers: {}", "needs {0} and {1}, and no other braces"),
    "braces": ("pattern: '{0} {1} {'\nanswers: {}", "needs {0} and {1}, and no other braces"),
    "no text": ("pattern: 3\nanswers: {}", "needs {0} and {1}, and no other braces"),
    "truth": ("pattern: '{0} {1}'\nanswers: {entailment: yes, neutral: a, contradiction: no}", "a word, in quotes"),
    "twice": ("pattern: '{0} {1}'\nanswers: {entailment: a, neutral: a, contradiction: b}", "are the same word"),
}


@pytest.mark.parametrize("text, words", PHRASE_FILES.values(), ids=PHRASE_FILES)
def test_bad_phrases(text, words, data, monkeypatch):
    path = data / "phrases.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        run(monkeypatch, "xnli", "--data", data / "xnli", "--languages", "de", "--phrases", path, "--out", data / "out")


def test_a_question_has_one_right_answer(data):
    """Documents that begin alike, or end alike, are asked about once, and the other is no choice."""
    path = data / "text.de.txt"
    pages = path.read_text(encoding="utf-8").split("\n\n")[:6]
    begun, ended = pages[0].split()[:35], pages[1].split()[35:]
    others = [" ".join([*begun, *(f"x{number}" for number in range(35))]), " ".join([*["y"] * 35, *ended])]
    alone = questions_of_text(str(path), "de", None)
    path.write_text("\n\n".join([*pages, *others, *pages]), encoding="utf-8")
    assert questions_of_text(str(path), "de", None) == alone


def test_few_documents_are_refused(data, monkeypatch):
    (data / "few.txt").write_text("\n\n".join(["a b c " * 20] * 6))  # all alike
    with pytest.raises(UserError, match=r"few\.txt: 1 documents have 32 words between spaces and differ there; 4 are"):
        run(monkeypatch, "text", "--data", data / "few.txt", "--languages", "de", "--out", data / "out")

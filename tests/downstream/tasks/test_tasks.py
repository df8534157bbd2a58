"""Every task reads the official releases' layouts, that of the shared data, and data sets; bad rows are named."""

import json
from pathlib import Path

import datasets
import pytest

from megamini.downstream.task_data.examples import Answer, QuestionExample, TaggedExample, TextExample
from megamini.downstream.tasks.custom import custom_task
from megamini.downstream.tasks.registry import TASKS, find_task, read_examples
from megamini.downstream.tasks.topics import is_test_page
from megamini.errors import UserError


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def table(*rows: str) -> str:
    """Rows with | for a tab."""
    return "".join(row.replace("|", "\t") + "\n" for row in rows)


def json_lines(*values: dict) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def squad(context: str, *questions: tuple[str, list[tuple[str, int]]]) -> str:
    qas = [
        {"id": str(n), "question": question, "answers": [{"text": t, "answer_start": s} for t, s in answers]}
        for n, (question, answers) in enumerate(questions)
    ]
    return json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": context, "qas": qas}]}]})


MNLI = json_lines(
    {"gold_label": "neutral", "sentence1": "A man.", "sentence2": "A tall man.", "genre": "fiction", "pairID": "1n"},
    {"gold_label": "-", "sentence1": "No one agrees.", "sentence2": "On this.", "genre": "fiction", "pairID": "2c"},
    {"gold_label": "contradiction", "sentence1": "He sat.\u2028Then he left.", "sentence2": "He stood."},
)
XNLI_HEADER = (
    "language|gold_label|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|sentence2_parse|sentence1|"
    "sentence2|promptID|pairID|genre|label1|label2|label3|label4|label5|sentence1_tokenized|sentence2_tokenized|match"
)
XNLI_ROWS = (
    'de|neutral|||||Und er sagte: "Mama|Er rief an.|1|1|facetoface|neutral|x|x|x|x|.|.|True',
    "en|entailment|||||And he said|He called.|1|2|facetoface|entailment|x|x|x|x|.|.|True",
)


def test_xnli_and_mnli_as_released(tmp_path):
    write(tmp_path / "multinli_1.0/multinli_1.0_train.jsonl", MNLI)
    write(tmp_path / "XNLI-1.0/xnli.dev.tsv", table(XNLI_HEADER, *XNLI_ROWS))
    write(
        tmp_path / "XNLI-1.0/xnli.test.jsonl",
        json_lines(
            {"language": "sw", "gold_label": "neutral", "sentence1": "Moja", "sentence2": "Mbili", "match": True},
            {"language": "de", "gold_label": "contradiction", "sentence1": "Eins", "sentence2": "Zwei", "match": True},
        ),
    )
    write(
        tmp_path / "XNLI-MT-1.0/multinli/multinli.train.de.tsv",
        table("premise|hypo|label", "Ein Satz|Noch einer|contradictory", "Ein Satz||neutral"),
    )
    xnli = TASKS["xnli"]
    assert xnli.read(tmp_path, "train", "en") == [
        TextExample(("A man.", "A tall man."), "neutral"),
        TextExample(("He sat.\u2028Then he left.", "He stood."), "contradiction"),
    ]
    assert xnli.read(tmp_path, "dev", "de") == [TextExample(('Und er sagte: "Mama', "Er rief an."), "neutral")]
    assert xnli.read(tmp_path, "test", "sw") == [TextExample(("Moja", "Mbili"), "neutral")]
    assert xnli.read(tmp_path, "train", "de") == [TextExample(("Ein Satz", "Noch einer"), "contradiction")]


def test_pawsx_as_released(tmp_path):
    rows = ("id|sentence1|sentence2|label", "1|Eins .|Zwei .|0", "2|NS|Zwei .|1", "3|Eins .|Eins .|1", "4||Zwei .|0")
    write(tmp_path / "x-final/de/test_2k.tsv", table(*rows))
    write(tmp_path / "x-final/de/translated_train.tsv", table(*rows))
    write(tmp_path / "x-final/en/train.tsv", table(*rows[:2]))
    expected = [TextExample(("Eins .", "Zwei ."), "0"), TextExample(("Eins .", "Eins ."), "1")]
    assert TASKS["pawsx"].read(tmp_path, "test", "de") == expected
    assert TASKS["pawsx"].read(tmp_path, "train", "de") == expected
    assert TASKS["pawsx"].read(tmp_path, "train", "en") == expected[:1]


def test_pairs_without_a_header(tmp_path):
    write(tmp_path / "test-de.tsv", table("Eins|Zwei|neutral"))
    assert TASKS["xnli"].read(tmp_path, "test", "de") == [TextExample(("Eins", "Zwei"), "neutral")]
    write(tmp_path / "test-es.tsv", table("Uno|Dos|1"))
    assert TASKS["pawsx"].read(tmp_path, "test", "es") == [TextExample(("Uno", "Dos"), "1")]


def test_questions_as_released(tmp_path):
    context = "Köln liegt am Rhein."
    content = squad(context, ("Wo liegt Köln?", [("am Rhein", 11), ("Rhein", 14)]), ("Warum?", []))
    expected = [
        QuestionExample("0", "Wo liegt Köln?", context, (Answer("am Rhein", 11), Answer("Rhein", 14))),
        QuestionExample("1", "Warum?", context, ()),
    ]
    write(tmp_path / "MLQA_V1/test/test-context-de-question-de.json", content)
    write(tmp_path / "MLQA_V1/test/test-context-de-question-en.json", squad(context))
    write(tmp_path / "xquad/xquad.de.json", content)
    write(tmp_path / "train-v1.1.json", content)
    write(tmp_path / "dev-v2.0.json", content)
    write(tmp_path / "tydi/tydiqa.goldp.en.train.json", content)
    assert TASKS["mlqa"].read(tmp_path, "test", "de") == expected
    assert TASKS["xquad"].read(tmp_path, "test", "de") == expected
    assert TASKS["squad"].read(tmp_path, "train", "en") == expected
    assert TASKS["squad"].read(tmp_path, "dev", "en") == expected
    assert TASKS["tydiqa"].read(tmp_path, "train", "en") == expected


def test_topics_as_released(tmp_path):
    rows = table("index_id|category|text", '7|travel|Ein "Zug fährt.')
    write(tmp_path / "annotated/deu_Latn/test.tsv", rows)
    write(tmp_path / "annotated/ace_Arab/test.tsv", rows)
    for language in ("de", "deu_Latn", "ace_Arab"):
        assert TASKS["sib200"].read(tmp_path, "test", language) == [TextExample(('Ein "Zug fährt.',), "travel")]


def test_entities_as_released(tmp_path):
    write(tmp_path / "de/train", table("de:Angela|B-PER", "de:Merkel|I-PER", "", "de::|O"))
    write(tmp_path / "dev-de.tsv", table("Köln|B-LOC", "", "", "de:|O"))
    assert TASKS["panx"].read(tmp_path, "train", "de") == [
        TaggedExample(("Angela", "Merkel"), ("B-PER", "I-PER")),
        TaggedExample((":",), ("O",)),
    ]
    assert TASKS["panx"].read(tmp_path, "dev", "de")[0] == TaggedExample(("Köln",), ("B-LOC",))


def test_treebanks_as_released(tmp_path):
    rest = "|_|_|_|_|_|_"
    sentence = table(
        "# text = zum Rhein", f"1-2|zum|_|_{rest}", f"1|zu|zu|ADP{rest}", f"2|dem|der|DET{rest}",
        f"3|Rhein|Rhein|PROPN{rest}", f"3.1|liegt|_|VERB{rest}", "",
    )  # fmt: skip
    expected = [TaggedExample(("zu", "dem", "Rhein"), ("ADP", "DET", "PROPN"))]
    write(tmp_path / "UD_German-GSD/de_gsd-ud-test.conllu", sentence * 2)
    write(tmp_path / "UD_German-GSD/de_gsd-ud-dev.conllu", sentence)
    write(tmp_path / "English-EWT.nde_ewt-ud-dev.conllu", sentence)
    assert TASKS["ud_pos"].read(tmp_path, "dev", "de") == expected
    assert TASKS["ud_pos"].read(tmp_path, "test", "de") == expected * 2
    write(tmp_path / "German-PUD.de_pud-ud-test.conllu", sentence)
    assert TASKS["ud_pos"].read(tmp_path, "test", "de") == expected, "the parallel treebank is there"


def test_help_pages_are_split_by_their_path(tmp_path):
    pages = [{"id": f"swriter/{n}.html", "text": f"Page {n}", "label": "swriter"} for n in range(200)]
    shared = {"id": "shared/1.html", "text": "Everywhere", "label": "shared"}
    write(tmp_path / "libreoffice-help.en.jsonl", json_lines(*pages, shared))
    write(tmp_path / "libreoffice-help.de.jsonl", json_lines(*[{**page, "text": "Seite"} for page in pages[::2]]))
    train, test = (TASKS["libreoffice"].read(tmp_path, split, "en") for split in ("train", "test"))
    assert len(train) + len(test) == 200
    assert 20 < len(test) < 60
    assert not {example.texts for example in train} & {example.texts for example in test}
    german = TASKS["libreoffice"].read(tmp_path, "test", "de")
    assert len(german) == sum(is_test_page(page["id"]) for page in pages[::2])


def test_custom_files(tmp_path):
    write(tmp_path / "a-en.tsv", table("Good|yes", "Bad|no"))
    write(tmp_path / "b.tsv", table("label|x|premise|hypothesis", "yes|1|One|Two"))
    write(tmp_path / "c.jsonl", json_lines({"text": "Good", "label": "yes"}))
    write(tmp_path / "d.conll", "-DOCSTART- -X- O\n\nKöln NNP B-LOC\nam IN O\n\nRhein NNP B-LOC\n")
    files = {"train": "a-{language}.tsv"}
    assert custom_task("mine", "classification", files).read(tmp_path, "train", "en") == [
        TextExample(("Good",), "yes"),
        TextExample(("Bad",), "no"),
    ]
    pair = custom_task("mine", "classification", {"test": "b.tsv"}, ["premise", "hypothesis", "label"])
    assert pair.read(tmp_path, "test", "de") == [TextExample(("One", "Two"), "yes")]
    lines = custom_task("mine", "classification", {"test": "*.jsonl"})
    assert lines.read(tmp_path, "test", "de") == [TextExample(("Good",), "yes")]
    assert custom_task("mine", "tagging", {"test": "d.conll"}).read(tmp_path, "test", "de") == [
        TaggedExample(("Köln", "am"), ("B-LOC", "O")),
        TaggedExample(("Rhein",), ("B-LOC",)),
    ]


def test_a_data_set_of_the_library(tmp_path):
    labels = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": labels}
    )
    data = datasets.Dataset.from_dict({"premise": ["A", "C"], "hypothesis": ["B", "D"], "label": [2, 1]}, features)
    data.to_parquet(tmp_path / "de" / "validation.parquet")
    read = read_examples(TASKS["xnli"], None, str(tmp_path / "{language}"), "dev", "de")
    assert read == [TextExample(("A", "B"), "contradiction"), TextExample(("C", "D"), "neutral")]
    assert read_examples(TASKS["xnli"], None, str(tmp_path / "{language}"), "dev", "de", limit=1) == read[:1]

    tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": tags})
    data = datasets.Dataset.from_dict({"tokens": [["Ada", "sat"]], "ner_tags": [[1, 0]]}, features)
    data.to_parquet(tmp_path / "ner" / "test.parquet")
    read = read_examples(TASKS["panx"], None, str(tmp_path / "ner"), "test", "de")
    assert read == [TaggedExample(("Ada", "sat"), ("B-PER", "O"))]


REST = "|_|_|_|_|_|_"
BAD = {
    "label": ("xnli", "dev", "dev-de.tsv", table("a|b|neutral", "a|b|natural"), "row 2: label 'natural'"),
    "columns": ("xnli", "dev", "dev-de.tsv", table("a|b|neutral", "a b"), "row 2: 1 tab-separated columns instead"),
    "empty": ("pawsx", "dev", "dev-de.tsv", table("a||1"), "row 1: a sentence is empty"),
    "no column": ("xnli", "dev", "xnli.dev.tsv", table("language|label"), "row 1: no column 'gold_label'"),
    "short row": ("xnli", "dev", "xnli.dev.tsv", table(XNLI_HEADER, "de|neutral"), "row 2: 2 tab-separated columns"),
    "other language": ("xnli", "dev", "xnli.dev.tsv", table(XNLI_HEADER), "no example in language 'de'"),
    "torn json": ("xnli", "test", "xnli.test.jsonl", '{"language": "de"', "row 1: not valid JSON"),
    "no key": ("xnli", "test", "xnli.test.jsonl", '{"language": "de"}', "row 1: 'gold_label' is missing"),
    "not utf-8": ("xnli", "dev", "dev-de.tsv", b"a\tb\xff\tneutral", "not UTF-8"),
    "topic": ("sib200", "test", "deu_Latn/test.tsv", table("index_id|category|text", "1|cars|x"), "row 2: category"),
    "tag": ("panx", "dev", "dev-de.tsv", table("a|O", "b|B-GEO"), "row 2: tag 'B-GEO' of 'b'"),
    "one column": ("panx", "dev", "dev-de.tsv", "a O\n", "row 1: 1 tab-separated columns instead of 2"),
    "conllu": ("ud_pos", "test", "de_x-ud-test.conllu", "1\ta\n", "row 1: 2 tab-separated columns instead of the 10"),
    "upos": ("ud_pos", "test", "de_x-ud-test.conllu", table(f"1|a|a|NN{REST}"), "row 1: tag 'NN'"),
    "page": ("libreoffice", "test", "libreoffice-help.de.jsonl", '{"id": "x", "text": "y"}', "row 1: 'label'"),
    "application": (
        "libreoffice", "test", "libreoffice-help.de.jsonl", '{"id": "x", "text": "y", "label": "z"}',
        "row 1: label 'z'",
    ),
    "not squad": ("xquad", "test", "xquad.de.json", "[]", "not a file in SQuAD's format"),
    "torn squad": ("xquad", "test", "xquad.de.json", '{"data": [', "not a file in SQuAD's format"),
    "no question": (
        "xquad", "test", "xquad.de.json", '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": 1}]}]}]}',
        "row data[0].paragraphs[0].qas[0]: 'question' is missing",
    ),
    "misplaced answer": (
        "mlqa", "dev", "dev-context-de-question-de.json", squad("Am Rhein", ("Wo?", [("Rhein", 2)])),
        "qas[0]: the context does not hold the answer 'Rhein' at character 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_name_file_and_row(case, tmp_path):
    task, split, name, content, words = BAD[case]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        TASKS[task].read(tmp_path, split, "de")
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", TASKS)
def test_a_missing_file_says_where_to_get_it(name, tmp_path):
    task = TASKS[name]
    with pytest.raises(UserError, match=r"no test data|no split 'test'"):
        task.read(tmp_path, "test", "de")
    with pytest.raises(UserError) as caught:
        task.read(tmp_path, "train", "de")
    assert task.source in str(caught.value)
    with pytest.raises(UserError, match="no such folder"):
        task.read(tmp_path / "gone", "train", "de")


def test_unknown_tasks_and_data_sets():
    with pytest.raises(UserError, match="unknown task 'xnil'; did you mean 'xnli'"):
        find_task("xnil")
    with pytest.raises(UserError, match="no data set on the hub"):
        read_examples(TASKS["libreoffice"], None, None, "test", "de")
    with pytest.raises(UserError, match="no split 'train' on the hub"):
        read_examples(TASKS["mlqa"], None, None, "train", "de")

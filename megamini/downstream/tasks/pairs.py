"""Tasks on a pair of sentences: XNLI (Conneau et al. 2018) and PAWS-X (Yang et al. 2019)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megamini.downstream.task_data.examples import TextExample
from megamini.downstream.task_data.rows import bad_row, read_cells, read_json_lines, read_table
from megamini.downstream.tasks.declaration import HubData, Layout, Task
from megamini.languages.codes import closest

NLI_LABELS = ("entailment", "neutral", "contradiction")
_SENTENCES = ("sentence1", "sentence2")
# What annotators could not agree on.
_NO_GOLD = "-"


def _checked(path: Path, row: int, texts: tuple[str, str], label: str, labels: tuple[str, ...]) -> TextExample:
    if label not in labels:
        raise bad_row(path, row, f"label '{label}' is none of {', '.join(labels)}")
    if not all(text.strip() for text in texts):
        raise bad_row(path, row, "a sentence is empty")
    return TextExample(texts, label)


def _three_columns(labels: tuple[str, ...]):
    def read(path: Path, language: str) -> Iterator[TextExample]:
        """sentence TAB sentence TAB label, without a header."""
        for row, (first, second, label) in read_cells(path, 3):
            yield _checked(path, row, (first, second), label, labels)

    return read


# --- XNLI -----------------------------------------------------------------------------------------------------------


def read_multinli(path: Path, language: str) -> Iterator[TextExample]:
    """MNLI's JSON lines (English only); examples without a gold label ('-') are dropped."""
    for row, values in read_json_lines(path, ("gold_label", *_SENTENCES)):
        if values["gold_label"] != _NO_GOLD:
            texts = (values["sentence1"], values["sentence2"])
            if all(text.strip() for text in texts):  # a few dozen of MNLI's hypotheses are "n/a" or nothing at all
                yield _checked(path, row, texts, values["gold_label"], NLI_LABELS)


def read_xnli_table(path: Path, language: str) -> Iterator[TextExample]:
    """XNLI 1.0's TSV: a header, all languages in one file, the language in a column."""
    needed = ("language", "gold_label", *_SENTENCES)
    own = closest(language, (cells["language"] for _, cells in read_table(path, needed)), path)
    for row, cells in read_table(path, needed):
        if cells["language"] == own and cells["gold_label"] != _NO_GOLD:
            yield _checked(path, row, (cells["sentence1"], cells["sentence2"]), cells["gold_label"], NLI_LABELS)


def read_xnli_lines(path: Path, language: str) -> Iterator[TextExample]:
    """XNLI 1.0's JSON lines, all languages in one file."""
    needed = ("language", "gold_label", *_SENTENCES)
    own = closest(language, (values["language"] for _, values in read_json_lines(path, needed)), path)
    for row, values in read_json_lines(path, needed):
        if values["language"] == own and values["gold_label"] != _NO_GOLD:
            yield _checked(path, row, (values["sentence1"], values["sentence2"]), values["gold_label"], NLI_LABELS)


def read_translated_multinli(path: Path, language: str) -> Iterator[TextExample]:
    """XNLI-MT's translations of MNLI: columns premise, hypo, label, and 'contradictory' for contradiction."""
    for row, cells in read_table(path, ("premise", "hypo", "label")):
        label = "contradiction" if cells["label"] == "contradictory" else cells["label"]
        if cells["premise"].strip() and cells["hypo"].strip():
            yield _checked(path, row, (cells["premise"], cells["hypo"]), label, NLI_LABELS)


def _from_xnli_record(record: dict[str, Any]) -> TextExample:
    return TextExample((record["premise"], record["hypothesis"]), record["label"])


_nli_columns = _three_columns(NLI_LABELS)
_XNLI_EVALUATION = (
    Layout("{split}-{language}.tsv", _nli_columns),
    Layout("**/xnli.{split}.tsv", read_xnli_table),
    Layout("**/xnli.{split}.jsonl", read_xnli_lines),
)

XNLI = Task(
    name="xnli",
    kind="classification",
    metric="accuracy",
    labels=NLI_LABELS,
    source="get XNLI 1.0 (dl.fbaipublicfiles.com/XNLI/XNLI-1.0.zip) and, to train, MultiNLI 1.0 "
    "(cims.nyu.edu/~sbowman/multinli), and give the folder that they are unpacked in",
    layouts={
        "train": (
            Layout("**/multinli_1.0_train.jsonl", read_multinli, languages=("en",)),
            Layout("**/multinli.train.{language}.tsv", read_translated_multinli),
            Layout("train-{language}*.tsv", _nli_columns),
        ),
        "dev": _XNLI_EVALUATION,
        "test": _XNLI_EVALUATION,
    },
    hub=HubData(
        "facebook/xnli", {"train": "train", "dev": "validation", "test": "test"}, _from_xnli_record, "{language}"
    ),
)

# --- PAWS-X ---------------------------------------------------------------------------------------------------------

_PARAPHRASE = ("0", "1")
# A sentence that was not translated.
_NOT_TRANSLATED = "NS"


def read_pawsx_table(path: Path, language: str) -> Iterator[TextExample]:
    """The release's TSV with a header; pairs with a sentence that was not translated ('NS', or nothing) are dropped."""
    for row, cells in read_table(path, (*_SENTENCES, "label")):
        texts = (cells["sentence1"], cells["sentence2"])
        if all(text.strip() not in ("", _NOT_TRANSLATED) for text in texts):
            yield _checked(path, row, texts, cells["label"], _PARAPHRASE)


def _from_pawsx_record(record: dict[str, Any]) -> TextExample | None:
    texts = (record["sentence1"], record["sentence2"])
    if any(text.strip() in ("", _NOT_TRANSLATED) for text in texts):
        return None
    return TextExample(texts, str(record["label"]))


_paraphrase_columns = _three_columns(_PARAPHRASE)
_PAWSX_EVALUATION = (
    Layout("{split}-{language}.tsv", _paraphrase_columns),
    Layout("**/{language}/{split}_2k.tsv", read_pawsx_table),
)

PAWSX = Task(
    name="pawsx",
    kind="classification",
    metric="accuracy",
    labels=_PARAPHRASE,
    source="get PAWS-X (github.com/google-research-datasets/paws, x-final.tar.gz) and give the folder that it is "
    "unpacked in",
    layouts={
        "train": (
            Layout("train-{language}.tsv", _paraphrase_columns),
            Layout("**/{language}/train.tsv", read_pawsx_table),
            Layout("**/{language}/translated_train.tsv", read_pawsx_table),
        ),
        "dev": _PAWSX_EVALUATION,
        "test": _PAWSX_EVALUATION,
    },
    hub=HubData(
        "google-research-datasets/paws-x",
        {"train": "train", "dev": "validation", "test": "test"},
        _from_pawsx_record,
        "{language}",
    ),
)

"""Tasks that tag words: PAN-X named entities (Pan et al. 2017, Rahimi et al. 2019) and Universal Dependencies."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megamini.downstream.task_data.examples import TaggedExample
from megamini.downstream.task_data.rows import bad_row, note, read_sentences
from megamini.downstream.tasks.declaration import HubData, Layout, Task


def _tagged(path: Path, sentence: list[tuple[int, tuple[str, str | None]]], tags: tuple[str, ...]) -> TaggedExample:
    for row, (word, tag) in sentence:
        if tag is not None and tag not in tags:
            raise bad_row(path, row, f"tag '{tag}' of '{word}' is none of {', '.join(tags)}")
    return TaggedExample(*zip(*(cells for _, cells in sentence), strict=True))


# --- PAN-X ----------------------------------------------------------------------------------------------------------

ENTITY_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")


def read_entities(path: Path, language: str) -> Iterator[TaggedExample]:
    """word TAB tag, a blank line between sentences; in the release each word begins with its language and a colon."""
    for sentence in read_sentences(path, lambda line: line.split("\t")):
        words = []
        for row, cells in sentence:
            if len(cells) != 2:
                raise bad_row(path, row, f"{len(cells)} tab-separated columns instead of 2 (word, tag)")
            word, tag = cells
            words.append((row, (word.removeprefix(f"{language}:") or word, tag)))
        yield _tagged(path, words, ENTITY_TAGS)


def _from_entity_record(record: dict[str, Any]) -> TaggedExample:
    return TaggedExample(tuple(record["tokens"]), tuple(record["ner_tags"]))


PANX = Task(
    name="panx",
    kind="tagging",
    metric="f1",
    labels=ENTITY_TAGS,
    source="get PAN-X in Rahimi's balanced splits (github.com/afshinrahimi/mmner, or XTREME's download script) and "
    "give its folder",
    layouts=dict.fromkeys(
        ("train", "dev", "test"),
        (Layout("{split}-{language}.tsv", read_entities), Layout("**/{language}/{split}", read_entities)),
    ),
    hub=HubData(
        "unimelb-nlp/wikiann",
        {"train": "train", "dev": "validation", "test": "test"},
        _from_entity_record,
        "{language}",
    ),
)

# --- Universal Dependencies -----------------------------------------------------------------------------------------

# The universal part-of-speech tags, version 2.
UPOS = ("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ",
        "SYM", "VERB", "X")  # fmt: skip
_COLUMNS = 10
# 4-5, a contraction whose words follow, and 8.1, a word that is not in the text.
_NOT_A_WORD = re.compile(r"\d+[-.]\d+")
_UNTAGGED = _WITHHELD = "_"


def read_conllu(path: Path, language: str) -> Iterator[TaggedExample]:
    """CoNLL-U, by syntactic words: contractions and words that are not in the text are passed over. A word without a
    tag (_), such as a part of a contraction that is tagged as a whole, is context; sentences of only such are left
    out, and so are treebanks that come without their words."""
    sentences = list(read_sentences(path, lambda line: None if line.startswith("#") else line.split("\t")))
    if sentences and all(cells[1:2] == [_WITHHELD] for sentence in sentences for _, cells in sentence):
        note(f"{path}: passed over: each word is '_', since the text has a licence of its own; its README says more")
        return
    for sentence in sentences:
        words = []
        for row, cells in sentence:
            if len(cells) != _COLUMNS:
                raise bad_row(path, row, f"{len(cells)} tab-separated columns instead of the {_COLUMNS} of CoNLL-U")
            if not _NOT_A_WORD.fullmatch(cells[0]):
                words.append((row, (cells[1], None if cells[3] == _UNTAGGED else cells[3])))
        if any(tag is not None for _, (_, tag) in words):
            yield _tagged(path, words, UPOS)


# Both written standards of Norwegian go by one code there.
_NORWEGIAN = {"nb": "bokmaal", "nn": "nynorsk*"}


def _treebanks(name: str) -> tuple[Layout, ...]:
    """Treebanks of a name, '*' for all of a language together, also where the repository's name stands in front."""
    norwegian = [
        Layout(f"**/{prefix}no_{treebank}-ud-{{split}}.conllu", read_conllu, languages=(language,))
        for prefix in ("", "*.")
        for language, treebank in (_NORWEGIAN.items() if name == "*" else ())
    ]
    patterns = (f"**/{prefix}{{language}}_{name}-ud-{{split}}.conllu" for prefix in ("", "*."))
    return (*(Layout(pattern, read_conllu) for pattern in patterns), *norwegian)


UD_POS = Task(
    name="ud_pos",
    kind="tagging",
    metric="accuracy",
    labels=UPOS,
    source="get treebanks from universaldependencies.org and give the folder that they are unpacked in",
    # The parallel treebanks are tested on where there is one: there all languages have the same sentences.
    layouts={"train": _treebanks("*"), "dev": _treebanks("*"), "test": (*_treebanks("pud"), *_treebanks("*"))},
)

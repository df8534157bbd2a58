"""Tasks on one text: SIB-200 topics (Adelani et al. 2024) and the application of a LibreOffice help page."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megamini.downstream.task_data.examples import TextExample
from megamini.downstream.task_data.rows import bad_row, read_json_lines, read_table
from megamini.downstream.tasks.declaration import HubData, Layout, Reader, Task

# --- SIB-200 --------------------------------------------------------------------------------------------------------

TOPICS = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")


def read_topics(path: Path, language: str) -> Iterator[TextExample]:
    """TSV with a header: index_id, category, text."""
    for row, cells in read_table(path, ("category", "text")):
        if cells["category"] not in TOPICS:
            raise bad_row(path, row, f"category '{cells['category']}' is none of {', '.join(TOPICS)}")
        yield TextExample((cells["text"],), cells["category"])


def _from_topic_record(record: dict[str, Any]) -> TextExample:
    return TextExample((record["text"],), record["category"])


SIB200 = Task(
    name="sib200",
    kind="classification",
    metric="accuracy",
    labels=TOPICS,
    source="get SIB-200 (github.com/dadelani/sib-200) and give its folder data/annotated",
    layouts=dict.fromkeys(("train", "dev", "test"), (Layout("**/{language}/{split}.tsv", read_topics),)),
    hub=HubData(
        "Davlan/sib200", {"train": "train", "dev": "validation", "test": "test"}, _from_topic_record, "{language}"
    ),
)

# --- LibreOffice help pages -----------------------------------------------------------------------------------------

# All but `shared`, whose pages belong to every application.
APPLICATIONS = ("sbasic", "scalc", "schart", "sdatabase", "sdraw", "simpress", "smath", "swriter")
_SHARED = "shared"
_TEST_SHARE = 0.2


def is_test_page(page: str) -> bool:
    """Whether a page, known by its path, is tested on: the same in every language, so that nothing leaks."""
    return int.from_bytes(hashlib.sha256(page.encode()).digest()[:8]) < _TEST_SHARE * 2**64


def _pages(test: bool) -> Reader:
    def read(path: Path, language: str) -> Iterator[TextExample]:
        """JSON lines {"id": page path, "text", "label": application}, as tools/fetch_text.py writes them."""
        for row, page in read_json_lines(path, ("id", "text", "label")):
            if page["label"] not in (*APPLICATIONS, _SHARED):
                raise bad_row(path, row, f"label '{page['label']}' is none of {', '.join((*APPLICATIONS, _SHARED))}")
            if page["label"] != _SHARED and is_test_page(page["id"]) == test:
                yield TextExample((page["text"],), page["label"])

    return read


_HELP_FILE = "libreoffice-help.{language}.jsonl"

LIBREOFFICE = Task(
    name="libreoffice",
    kind="classification",
    metric="accuracy",
    labels=APPLICATIONS,
    source="python tools/fetch_text.py libreoffice-help --languages LANG --out DIR makes it, and DIR is the folder",
    layouts={"train": (Layout(_HELP_FILE, _pages(test=False)),), "test": (Layout(_HELP_FILE, _pages(test=True)),)},
    validation_split="test",
)

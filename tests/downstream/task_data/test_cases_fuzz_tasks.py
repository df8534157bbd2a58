"""Task files, pages and word lists with random damage: read, or one line that names the file; never anything else."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.downstream.evaluation.retrieval import read_pages
from megamini.downstream.tasks.custom import custom_task
from megamini.downstream.tasks.registry import TASKS
from megamini.errors import UserError

_QUESTIONS = [
    {"id": f"german-{n}", "question": "Wo liegt Köln?", "answers": [{"text": "am Rhein", "answer_start": 11}]}
    for n in range(3)
]
_SQUAD = json.dumps({"data": [{"paragraphs": [{"context": "Köln liegt am Rhein.", "qas": _QUESTIONS}]}]})
_PAGES = "".join(json.dumps({"id": f"swriter/{n}", "text": f"Seite {n}", "label": "swriter"}) + "\n" for n in range(9))


def _own(kind: str, *columns: str):
    return custom_task("mine", kind, {"test": "*.*"}, columns).read


def _words(folder: Path, split: str, language: str):
    return read_lexicon(next(folder.iterdir()))


def _pages(folder: Path, split: str, language: str):
    return read_pages(str(folder / "pages.{language}.jsonl"), language)


# What reads, the file's name, what is in it before the damage.
FILES = {
    "xnli": (TASKS["xnli"].read, "test-de.tsv", 'Er sagte: "Ja\tEr rief.\tneutral\n' * 3),
    "xnli 1.0": (
        TASKS["xnli"].read,
        "xnli.test.tsv",
        "language\tgold_label\tsentence1\tsentence2\nde\tneutral\tA\tB\n",
    ),
    "pawsx": (TASKS["pawsx"].read, "test-de.tsv", '"Die ""IPA"" ist"\tEins\t1\nZwei\tDrei\t0\n'),
    "sib200": (
        TASKS["sib200"].read,
        "deu_Latn.tsv",
        "index_id\tcategory\ttext\n" + '1\ttravel\t"""Ja"" sagt er"\n' * 3,
    ),
    "squad": (TASKS["xquad"].read, "xquad.de.json", _SQUAD),
    "mlqa": (TASKS["mlqa"].read, "test-context-de-question-de.json", _SQUAD),
    "panx": (TASKS["panx"].read, "test-de.tsv", "Angela\tB-PER\nMerkel\tI-PER\n\nist\tO\n"),
    "conllu": (
        TASKS["ud_pos"].read,
        "de_x-ud-test.conllu",
        "# text = zu\n" + "1\tzu\tzu\tADP\t_\t_\t_\t_\t_\t_\n\n" * 3,
    ),
    "libreoffice": (TASKS["libreoffice"].read, "libreoffice-help.de.jsonl", _PAGES),
    "conll": (_own("tagging"), "a.conll", "# id 3 domain=en\nNew _ _ B-X\n# _ _ O\n\nb _ _ O\n"),
    "texts": (_own("classification"), "a.tsv", '"a ""b"""\tx\ny\tz\n'),
    "texts with a header": (_own("classification", "text", "label"), "a.tsv", "text\tlabel\nGut\tja\n"),
    "json lines": (_own("classification"), "a.jsonl", '{"text": "a", "label": "b"}\n' * 3),
    "own questions": (_own("question-answering"), "a.json", _SQUAD),
    "pages": (_pages, "pages.de.jsonl", _PAGES),
    "words": (_words, "de.tsv", "Brot\tbread\nWasser\twater\n"),
}
_INSERTED = (
    *(character.encode() for character in '"\t\n\r\0_#{}[] \u00a0\ufeff'),
    b'""', b"\xff", b"\xed\xa0\xbd", b"\xff\xfe", b"\\ud83d", b"{}", b"[]", b"null", b"true", b"NaN", b"-1", b"1e999",
    b"9" * 5000, b"[" * 9000,
)  # fmt: skip


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One to four bytes or passages put in, left out, replaced or repeated."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        length = draw.randint(1, 30)
        what = draw.choice(("insert", "delete", "replace", "repeat"))
        new = {"insert": draw.choice(_INSERTED), "delete": b"", "replace": draw.choice(_INSERTED)}
        changed[at : at + (0 if what in ("insert", "repeat") else length)] = new.get(what, bytes(changed[at:][:length]))
    return bytes(changed)


def texts_of(value: object) -> Iterator[str]:
    """All texts in what was read."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain(texts_of(list(value)), texts_of(list(value.values())))
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(texts_of, value))
    elif is_dataclass(value):
        yield from texts_of([getattr(value, field.name) for field in fields(value) if field.name != "id"])


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.all_combinations)], ids=["some", "many"])
def test_damage_is_read_or_is_one_line(case, count, tmp_path):
    read, name, content = FILES[case]
    draw = random.Random(f"{case} {count}")
    folder = tmp_path / "deu_Latn" if case == "sib200" else tmp_path
    path = folder / ("test.tsv" if case == "sib200" else name)
    for number in range(count):
        folder.mkdir(exist_ok=True)
        path.write_bytes(damaged(content.encode(), draw))
        try:
            for text in texts_of(read(tmp_path, "test", "de")):
                text.encode()
        except UserError as error:
            assert str(tmp_path) in str(error), (number, error)
        assert list(folder.iterdir()) == [path], "nothing is written"

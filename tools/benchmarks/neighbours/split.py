"""Split a language's pages: held-out ones (the test pages of the task), all others, and a few sentences of these.

python tools/benchmarks/neighbours/split.py --pages text/libreoffice-help.de.jsonl --sentences 10000 --out text/de

The few sentences are those of the first pages in a fixed random order, the same pages in every language.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from megamini.downstream.tasks.topics import is_test_page
from megamini.errors import CommandParser, UserError, run_command
from megamini.files import write_atomically
from megamini.languages.words import sentences


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--pages", type=Path, required=True, metavar="FILE", help="JSON lines with id and text")
    parser.add_argument("--sentences", type=int, required=True, metavar="N", help="how many sentences the few are")
    parser.add_argument("--out", type=Path, required=True, metavar="STEM", help="STEM.all.jsonl and others are written")
    options = parser.parse_args()
    pages = [json.loads(line) for line in options.pages.read_text(encoding="utf-8").splitlines()]
    held = [page for page in pages if is_test_page(page["id"])]
    others = [page for page in pages if not is_test_page(page["id"])]
    few = first_sentences(others, options.sentences)
    for name, kept in (("held-out", held), ("all", others), ("few", few)):
        if not kept:
            raise UserError(f"{options.pages}: has no page for {name}")
        lines = (json.dumps({"id": page["id"], "text": page["text"]}, ensure_ascii=False) for page in kept)
        write_atomically(Path(f"{options.out}.{name}.jsonl"), "".join(f"{line}\n" for line in lines))


def first_sentences(pages: Iterable[dict[str, str]], most: int) -> list[dict[str, str]]:
    """Pages in an order that their ids decide, the last one cut, with `most` sentences together."""
    kept: list[dict[str, str]] = []
    for page in sorted(pages, key=lambda page: hashlib.sha256(page["id"].encode()).digest()[8:]):
        own = sentences(page["text"])[:most]
        if own:
            kept.append({"id": page["id"], "text": "\n".join(own)})
        most -= len(own)
        if not most:
            break
    return kept


if __name__ == "__main__":
    run_command(main)

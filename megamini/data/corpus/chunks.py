"""Long texts in chunks, cut where a tokenizer cuts too."""

from collections.abc import Iterator
from typing import NamedTuple

CHUNK_CHARACTERS = 100_000


class Chunk(NamedTuple):
    """A part of a document. `key`, on the first chunk only, is what the document is known by: its id, or that text."""

    text: str
    key: str | None
    last: bool


def cut_document(text: str, identity: str | None = None, first: bool = True) -> Iterator[Chunk]:
    """`text`, the rest of a document, as chunks. `first`: nothing of the document was handed over yet."""
    if first and (not text or text.isspace()):
        return
    parts = list(cut_text(text, CHUNK_CHARACTERS)) or [""]
    for number, part in enumerate(parts):
        key = (identity or part) if first and number == 0 else None
        yield Chunk(part, key, last=number == len(parts) - 1)


def cut_text(text: str, characters: int) -> Iterator[str]:
    """`text` in parts of at most `characters`, cut before the last white space that a word follows.

    There a tokenizer cuts too, so the tokens are those of the whole; only where there is no white space at all for
    `characters` characters does a cut fall inside a word.
    """
    start = 0
    while len(text) - start > characters:
        stop = start + characters
        gap = max(text.rfind(" ", start + 1, stop), text.rfind("\n", start + 1, stop))
        while 0 < gap < stop - 1 and text[gap + 1].isspace():
            gap += 1
        cut = gap if gap > start else stop
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:]

"""Parallel text: two files whose lines say the same, in the new language and in the source's."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from megamini.errors import UserError

_END = object()


def read_parallel(paths: tuple[str, str]) -> list[tuple[str, str]]:
    """(target line, source line) of two files, target first; pairs with an empty side are left out.

    Raises `UserError` for files that are not aligned line by line, hold nothing, or are no UTF-8 text.
    """
    pairs = []
    for number, both in enumerate(zip_longest(*map(_lines, paths), fillvalue=_END), 1):
        if _END in both:
            ended = paths[both.index(_END)]
            raise UserError(f"{ended}: ends before line {number}, but the other file goes on; lines must be aligned")
        target, source = (" ".join(line.split()) for line in both)
        if target and source:
            pairs.append((target, source))
    if not pairs:
        raise UserError(f"{paths[0]}, {paths[1]}: no line has text in both files")
    return pairs


def _lines(path: str) -> Iterator[str]:
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UserError(f"{path}: line {number}: not valid UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give two files whose lines say the same") from None

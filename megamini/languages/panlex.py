"""PanLex's tables (panlex.org, CC0): what two languages say for the same meaning, as a bilingual word list.

A release is a zip of CSV tables, in a folder or not: langvar.csv names the languages, expr.csv their words, and
denotation.csv which word stands for which meaning of one of its thousands of sources.
"""

import csv
import io
import re
import struct
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from megamini.errors import UserError
from megamini.files import DAMAGE
from megamini.languages.codes import same_language

_NUMBER = re.compile("[0-9]{1,18}")  # int reads other digits too, and refuses very long ones
# What a zip raises that is torn or damaged, or needs a password or a compression that Python lacks. UserError is none.
_DAMAGE = (zipfile.BadZipFile, *DAMAGE, struct.error, ValueError, RuntimeError)


def word_pairs(
    release: str | Path, target: str, source: str, say: Callable[[str], None] = print
) -> list[tuple[str, str]]:
    """(word of `target`, its translation into `source`), each once: sorted by word, then what most meanings say first.

    release: the zip, or the folder that it was unpacked to. Rows that cannot be read are passed over, and their number
    said in one line for each table. Raises `UserError` for what is no release, or has no words of one of the languages.
    """
    tables = _Tables(Path(release), say)
    language_of: dict[int, str] = {}
    for number, code in tables.rows("langvar", "id", "lang_code"):
        for language in (target, source):
            if same_language(language, code):
                language_of[int(number)] = language
    words: dict[int, tuple[str, str]] = {}
    for number, variety, text in tables.rows("expr", "id", "langvar", "txt"):
        language = language_of.get(int(variety))
        if language is not None and (word := " ".join(text.split())):
            words[int(number)] = (language, word)
    for language in (target, source):
        if not any(one == language for one, _ in words.values()):
            raise UserError(f"{release}: has no words of '{language}'; give a code of ISO 639, such as de or deu")
    meanings: dict[int, list[int]] = defaultdict(list)
    for meaning, expression in tables.rows("denotation", "meaning", "expr"):
        if int(expression) in words:
            meanings[int(meaning)].append(int(expression))
    told: Counter[tuple[str, str]] = Counter()
    for expressions in meanings.values():
        sides = {
            language: sorted({words[one][1] for one in expressions if words[one][0] == language})
            for language in (target, source)
        }
        told.update((ours, theirs) for ours in sides[target] for theirs in sides[source])
    if not told:
        raise UserError(f"{release}: no meaning has words of both '{target}' and '{source}'")
    return sorted(told, key=lambda pair: (pair[0], -told[pair], pair[1]))


class _Tables:
    """The tables of a release, whose rows are read one by one: denotation.csv has a hundred million."""

    def __init__(self, release: Path, say: Callable[[str], None]) -> None:
        self._release, self._say = release, say

    def rows(self, table: str, *columns: str) -> Iterator[tuple[str, ...]]:
        """Values of these columns. All but txt and lang_code are numbers."""
        where, odd, first, count = f"{self._release}: {table}.csv", 0, "", 0
        with self._open(table) as file:
            reader = csv.reader(file)
            try:
                header = next(reader, [])
                if missing := [column for column in columns if column not in header]:
                    raise UserError(f"{where}: has no column {' and no '.join(missing)}; is it a table of PanLex?")
                places = [(header.index(column), column not in ("txt", "lang_code")) for column in columns]
                for row in reader:
                    count += 1
                    if len(row) == len(header) and all(_NUMBER.fullmatch(row[n]) for n, number in places if number):
                        yield tuple(row[place] for place, _ in places)
                    else:
                        odd, first = odd + 1, first or f"line {reader.line_num}: {','.join(row)[:80]!r}"
            except (csv.Error, OSError, *_DAMAGE) as error:
                raise UserError(f"{where}: cannot be read behind line {reader.line_num}: {error}") from None
        if odd:
            self._say(f"{where}: {odd:,} of {count:,} rows are passed over, the first is {first}")

    def _open(self, table: str) -> TextIO:
        wanted = f"{table}.csv"
        try:
            if self._release.is_dir():
                path = next(iter(sorted(self._release.rglob(wanted))), self._release / wanted)
                return path.open(encoding="utf-8", newline="")
            with zipfile.ZipFile(self._release) as archive:  # a member that is open keeps the file open
                names = [name for name in archive.namelist() if name.rpartition("/")[2] == wanted]
                if not names:
                    raise UserError(f"{self._release}: has no {wanted}; give PanLex's zip of CSV tables")
                return io.TextIOWrapper(archive.open(names[0]), encoding="utf-8", newline="")
        except OSError as error:
            told = error.strerror or error
            raise UserError(f"{self._release}: {wanted}: {told}; give PanLex's zip or its folder") from None
        except _DAMAGE as error:
            raise UserError(
                f"{self._release}: cannot be read as a zip ({error}); give PanLex's zip of CSV tables, or its folder"
            ) from None

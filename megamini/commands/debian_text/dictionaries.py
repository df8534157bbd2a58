"""Bilingual word lists out of the FreeDict project's dictionaries, for `adaptation.lexicon`."""

import gzip
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from megamini.commands.debian_text.archive import Archive, Package
from megamini.commands.debian_text.collection import Reading
from megamini.commands.debian_text.languages import require
from megamini.commands.debian_text.licence import licence_of
from megamini.errors import UserError
from megamini.files import DAMAGE

# FreeDict names languages by three letters (ISO 639-3), users by two where there are two.
SHORT = {
    "afr": "af", "ara": "ar", "bre": "br", "bul": "bg", "ces": "cs", "cym": "cy", "dan": "da", "deu": "de",
    "ell": "el", "epo": "eo", "fin": "fi", "fra": "fr", "gle": "ga", "hin": "hi", "hrv": "hr", "hun": "hu",
    "ind": "id", "isl": "is", "ita": "it", "jpn": "ja", "kur": "ku", "lat": "la", "lit": "lt", "nld": "nl",
    "nor": "no", "pol": "pl", "por": "pt", "rus": "ru", "san": "sa", "slk": "sk", "slv": "sl", "spa": "es",
    "srp": "sr", "swe": "sv", "swh": "sw", "tur": "tr",
}  # fmt: skip
ENGLISH = "eng"
PREFIX = "dict-freedict-"
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
ASIDE = re.compile(r"\[[^\]]*\]|<[^>]*>|\([^)]*\)|\{[^}]*\}")  # subject, grammar, remark, reference
NO_TRANSLATION = re.compile(r'  | ?see: |\s*"')  # notes, synonyms and examples are set deeper
SOURCE_WORDS = re.compile(r"[A-Za-z][A-Za-z'-]*(?: [A-Za-z'-]+)?")  # longer ones are explanations


@dataclass(frozen=True)
class Translation:
    """A word of the target language and one of English for it: a line of a word list."""

    word: str
    english: str

    @property
    def text(self) -> str:
        return f"{self.word}\t{self.english}"

    def line(self) -> str:
        return f"{self.text}\n"


class FreeDict:
    """Words of a language with their English translations, from the dictionaries of both directions."""

    name = "freedict"

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    def codes(self) -> list[str]:
        pairs = [name.removeprefix(PREFIX).split("-") for name in self.archive.names(PREFIX)]
        with_english = {code for pair in pairs if ENGLISH in pair for code in pair if code != ENGLISH}
        return sorted(SHORT.get(code, code) for code in with_english)

    def read(self, language: str) -> Reading:
        short = require(language, self.codes(), self.name)
        code = next((long for long, known in SHORT.items() if known == short), short)
        there = self.archive.names(PREFIX)
        found: dict[Translation, None] = {}
        packages, licences = {}, {}
        for pair in (f"{code}-{ENGLISH}", f"{ENGLISH}-{code}"):
            if PREFIX + pair not in there:
                continue
            package = self.archive.download(PREFIX + pair)
            dictionary, index, copyright_file = self._files(package, pair)
            packages[package.name] = package.version
            licences[package.name] = _licence(copyright_file.decode("utf-8", "replace"), package.name, pair)
            try:
                listed = list(entries(dictionary, index))
            except (ValueError, OSError, *DAMAGE) as error:
                raise UserError(f"{package.file}: {pair} is no dictionary as dictd reads it: {error!r}") from None
            for head, others in listed:
                for other in others:
                    word, english = (head, other) if pair.startswith(code) else (other, head)
                    english = re.sub(r"^(to|an?|the) ", "", english)
                    if _is_word(word) and SOURCE_WORDS.fullmatch(english):
                        found.setdefault(Translation(word, english))
        return Reading(list(found), packages, "; ".join(licences.values()))

    def _files(self, package: Package, pair: str) -> list[bytes]:
        """Dictionary, index and copyright file."""
        dictionary = f"usr/share/dictd/freedict-{pair}"
        wanted = (f"{dictionary}.dict.dz", f"{dictionary}.index", f"usr/share/doc/{package.name}/copyright")
        content = dict(self.archive.members(package, wanted.__contains__))
        if missing := [path for path in wanted if path not in content]:
            raise UserError(f"{package.file}: version {package.version} has no {missing[0]}")
        return [content[path] for path in wanted]


def entries(dictionary: bytes, index: bytes) -> Iterator[tuple[str, list[str]]]:
    """Headword and translations of every entry of a dictionary in dictd's format.

    dictionary: entries one behind the other, compressed by gzip. index: lines of headword, offset and length in bytes,
    both in base 64 (dictfmt(1)). Raises ValueError, OSError or one of `DAMAGE` for anything else.
    """
    text = gzip.decompress(dictionary)
    places = set()
    for line in index.decode().splitlines():
        headword, offset, length = line.split("\t")[:3]
        if not headword.startswith(("00database", "00-database")):
            places.add((_number(offset), _number(length)))
    for offset, length in sorted(places):
        # One code point for a letter and its mark, as tokenizers see it; Hindi entries write ~ for a space.
        entry = unicodedata.normalize("NFC", text[offset : offset + length].decode("utf-8")).replace("~", " ")
        head, *lines = entry.splitlines()
        translations = [
            word.strip()
            for line in lines
            if not NO_TRANSLATION.match(line)
            for word in re.split("[,;،؛、，；]", re.sub(r"^\s*\d+\.\s*", "", ASIDE.sub("", line)))
        ]
        # Behind the headword stand its sounds, between strokes.
        yield re.split(r"\s+/", ASIDE.sub("", head))[0].strip(), [word for word in translations if word]


def _is_word(text: str) -> bool:
    """Letters, their marks (vowels in Hindi or Arabic), and hyphens or apostrophes between them."""
    return all(
        part and all(unicodedata.category(character)[0] in "LM" for character in part)
        for part in re.split("[-'’]", text)
    )


def _licence(copyright_file: str, package: str, pair: str) -> str:
    """The packages share one copyright file, with a stanza a dictionary."""
    stanza = re.search(rf"^Files: *{pair}/(?:.+\n)+", copyright_file, re.MULTILINE)
    return licence_of(stanza[0] if stanza else copyright_file, package)


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + DIGITS.index(digit)
    return value

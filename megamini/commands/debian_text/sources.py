"""What there is to fetch: each source knows its packages, its language codes and where a page keeps its text."""

import gzip
import re
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from tqdm import tqdm

from megamini.commands.debian_text.archive import Archive
from megamini.commands.debian_text.collection import Document, Reading
from megamini.commands.debian_text.languages import find, normal, require
from megamini.commands.debian_text.licence import licence_of
from megamini.commands.debian_text.paragraphs import (
    description_paragraphs,
    html_paragraphs,
    translated,
    without_notices,
)
from megamini.errors import UserError
from megamini.files import DAMAGE

Pages = dict[str, list[str]]
# What LibreOffice's help writes where a reference in a page leads nowhere.
BROKEN_REFERENCE = re.compile(r"D'oh! You found a bug|\.xhp#\S+ not found")


class PageSource(ABC):
    """A source of pages that keep their path in every language, so that the English page shows what is untranslated.

    A subclass gives `codes` (its languages), `packages` (where a language's pages are) and the two readers.
    """

    name: str
    labelled = False
    licence = "see the packages' copyright files"

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._english: tuple[Pages, dict[str, str], str] | None = None

    @abstractmethod
    def codes(self) -> list[str]:
        """The languages there are, by the source's own codes."""

    @abstractmethod
    def packages(self, code: str) -> list[str]:
        """Names of the packages that hold a language's pages."""

    @abstractmethod
    def page_id(self, path: str, code: str) -> str | None:
        """The page's name without its language, or None for a file that is no page of this language."""

    @abstractmethod
    def paragraphs(self, content: bytes) -> list[str]:
        """The text of a page."""

    def read(self, language: str) -> Reading:
        """All pages in a language, without what is still English in them."""
        code, english = (require(name, self.codes(), self.name) for name in (language, "en"))
        # The English pages are the reference of every other language, so they are read once.
        self._english = self._english or self._read_pages(english)
        pages, packages, licence = self._english if code == english else self._read_pages(code)
        if code != english:
            english_pages, english_packages, _ = self._english
            pages = {page: translated(lines, english_pages.get(page, [])) for page, lines in pages.items()}
            packages = {**packages, **english_packages}
        documents = [
            Document(page, "\n".join(lines), page.partition("/")[0] if self.labelled else None)
            for page, lines in sorted(pages.items())
            if lines
        ]
        return Reading(documents, packages, licence)

    def _read_pages(self, code: str) -> tuple[Pages, dict[str, str], str]:
        packages = [self.archive.download(name) for name in self.packages(code)]
        copyright_file = f"usr/share/doc/{packages[0].name}/copyright"
        found, licence = {}, self.licence
        for package in packages:
            for path, content in self.archive.members(
                package, lambda path: path == copyright_file or self.page_id(path, code) is not None
            ):
                if path == copyright_file:
                    licence = licence_of(content.decode("utf-8", "replace"), package.name)
                else:
                    found.setdefault(self.page_id(path, code), content)
        bar = tqdm(sorted(found.items()), desc=f"{self.name} {code}", unit="page", leave=False, disable=None)
        pages = {}
        for page, content in bar:
            try:
                pages[page] = self.paragraphs(content)
            except (OSError, *DAMAGE) as error:
                raise UserError(f"{packages[0].file}: {page}: is torn or invalid: {error}") from None
        return pages, {package.name: package.version for package in packages}, licence


class LibreOfficeHelp(PageSource):
    """The help pages of LibreOffice. The application that a page belongs to is its label."""

    name = "libreoffice-help"
    labelled = True
    licence = "MPL-2.0"

    def codes(self) -> list[str]:
        prefix = "libreoffice-help-"
        return [name.removeprefix(prefix) for name in self.archive.names(prefix) if name != f"{prefix}common"]

    def packages(self, code: str) -> list[str]:
        return [f"libreoffice-help-{code}"]

    def page_id(self, path: str, code: str) -> str | None:
        match = re.fullmatch(r"usr/share/libreoffice/help/[^/]+/text/(.+/.+\.html)", path)
        return match and match[1]

    def paragraphs(self, content: bytes) -> list[str]:
        listings = ("code", "codeintable", "smathcode")
        lines = html_paragraphs(content, "//div[@id='DisplayArea']", listings)
        return [line for line in lines if not BROKEN_REFERENCE.search(line)]


class ManualPages(PageSource):
    """The manual pages, set as HTML by mandoc: it knows all of roff that manuals use, and does not wrap paragraphs."""

    name = "manpages"

    def codes(self) -> list[str]:
        names = self.archive.names("manpages")
        codes = [match[1] for name in names if (match := re.fullmatch(r"manpages-(\w\w(?:-\w\w)?)", name))]
        return ["en", *codes]

    def packages(self, code: str) -> list[str]:
        main = "manpages" if code == "en" else f"manpages-{code}"
        return [main, *(name for name in self.archive.names(main) if name == f"{main}-dev")]

    def page_id(self, path: str, code: str) -> str | None:
        match = re.fullmatch(r"usr/share/man/(?:([^/]+)/)?(man\d[^/]*/[^/]+)\.gz", path)
        # A package may hold two scripts of its language, in folders of their own.
        return match[2] if match and find(code, [match[1] or "en"]) and normal(match[1] or "") != "zh-tw" else None

    def _read_pages(self, code: str) -> tuple[Pages, dict[str, str], str]:
        pages, packages, licence = super()._read_pages(code)
        return without_notices(pages), packages, licence

    def paragraphs(self, content: bytes) -> list[str]:
        roff = gzip.decompress(content)
        if re.search(rb"^\.so ", roff, re.MULTILINE) and len(roff) < 500:
            return []  # another name of a page that is here under its own
        command = [str(self._mandoc), "-K", "utf-8", "-T", "html", "-O", "fragment"]
        page = subprocess.run(command, input=roff, capture_output=True, check=False).stdout
        return html_paragraphs(page, "//div[@class='manual-text']") if page.strip() else []

    def read(self, language: str) -> Reading:
        package, self._mandoc = self.archive.program("mandoc")
        reading = super().read(language)
        return Reading(reading.documents, {**reading.packages, package.name: package.version}, reading.licence)


class Guide(PageSource):
    """A book whose one package holds a folder a language."""

    package: str
    folder: str
    skipped: tuple[str, ...]

    def codes(self) -> list[str]:
        if not hasattr(self, "_codes"):
            package = self.archive.download(self.package)
            pages = self.archive.members(package, lambda path: path.endswith("/index.html"))
            folders = [re.fullmatch(rf"{self.folder}/([^/]+)/index\.html", path) for path, _ in pages]
            self._codes = [folder[1] for folder in folders if folder]
        return self._codes

    def packages(self, code: str) -> list[str]:
        return [self.package]

    def page_id(self, path: str, code: str) -> str | None:
        match = re.fullmatch(rf"{self.folder}/{re.escape(code)}/([^/]+\.html)", path)
        return match and match[1]

    def paragraphs(self, content: bytes) -> list[str]:
        return html_paragraphs(content, "//body", self.skipped)


class DebianHandbook(Guide):
    name = package = "debian-handbook"
    folder = "usr/share/doc/debian-handbook/html"
    skipped = ("docnav", "toc")

    def paragraphs(self, content: bytes) -> list[str]:
        return html_paragraphs(content, "//body/*[not(@id='banner') and not(@id='title')]", self.skipped)


class InstallationGuide(Guide):
    name = "installation-guide"
    package = "installation-guide-amd64"
    folder = "usr/share/doc/installation-guide-amd64"
    skipped = ("navheader", "navfooter", "toc")


class PackageDescriptions:
    """What every package says about itself: one document a package, parallel by its name."""

    name = "package-descriptions"

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    def codes(self) -> list[str]:
        return self.archive.translation_codes()

    def read(self, language: str) -> Reading:
        code = require(language, self.codes(), self.name)
        files = self.archive.translations(code)
        # A few packages are described anew in an update; the indexes are in order, updates first, and the first stays.
        texts: dict[str, str] = {}
        for file in files:
            for package, text in descriptions(file):
                texts.setdefault(package, text)
        # Many packages of one family share a description word for word; the first by name keeps it.
        first = {text: package for package, text in sorted(texts.items(), reverse=True)}
        documents = [Document(package, text) for text, package in sorted(first.items(), key=lambda pair: pair[1])]
        indexes = {file.name.partition("_dists_")[2]: _version(file) for file in files}
        return Reading(documents, indexes, "as the described packages (each package's own copyright file)")


def descriptions(index: Path) -> list[tuple[str, str]]:
    """Package name and text of every stanza of a `Translation-LANG` index."""
    found = []
    for stanza in index.read_text(encoding="utf-8").split("\n\n"):
        package = re.search(r"^Package: (\S+)", stanza, re.MULTILINE)
        description = re.search(r"^Description-[^m:][^:]*: ?(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        if package and description:
            found.append((package[1], "\n".join(description_paragraphs(description[1].split("\n")))))
    return found


def _version(index: Path) -> str:
    """The date of the release that an index belongs to."""
    stem = re.match(r".*_dists_[^_]+_", index.name)[0]
    for release in sorted(index.parent.glob(f"{stem}*Release")):
        date = re.search(r"^Date: (.+)$", release.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if date:
            return date[1]
    return "unknown"


SOURCES = {
    source.name: source
    for source in (LibreOfficeHelp, PackageDescriptions, ManualPages, DebianHandbook, InstallationGuide)
}

"""Markup to paragraphs: every reader here returns clean lines of running text, one paragraph each."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import lxml.html
from lxml.html import HtmlElement

# Elements inside a paragraph; every other element begins and ends one.
INLINE = frozenset(
    {"a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "dfn", "em", "font", "i", "kbd", "mark", "q"}
    | {"s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var", "wbr"}
)
# Listings and program output are no language; the others hold no text for a reader.
SKIPPED_TAGS = frozenset({"script", "style", "noscript", "template", "head", "pre", "math", "svg", "button", "nav"})

# Chinese and Japanese write no spaces, so a line break between their characters stands for nothing.
WIDE = r"[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]"
BREAK_BETWEEN_WIDE = re.compile(rf"(?<={WIDE})[ \t]*\n\s*(?={WIDE})")
INVISIBLE = re.compile("[\u00ad\u200e\u200f\ufeff]")
HAS_LETTER = re.compile(r"[^\W\d_]")


def clean(text: str) -> str:
    """One line: line breaks and runs of blanks become one space, invisible marks go."""
    return " ".join(BREAK_BETWEEN_WIDE.sub("", INVISIBLE.sub("", text)).split())


def html_paragraphs(page: bytes, select: str, skipped_classes: Iterable[str] = ()) -> list[str]:
    """The paragraphs below the elements that the XPath `select` finds. `page` is UTF-8."""
    parser = lxml.html.HTMLParser(encoding="utf-8")
    document = lxml.html.document_fromstring(page, parser=parser)
    skipped = frozenset(skipped_classes)
    texts: list[str | None] = []
    for root in document.xpath(select):
        _collect(root, skipped, texts)
    return list(_join(texts))


def _collect(element: HtmlElement, skipped: frozenset[str], texts: list[str | None]) -> None:
    """Append the text below `element` in reading order; None marks where a paragraph ends."""
    # A comment's tag is a function.
    is_text = isinstance(element.tag, str) and element.tag not in SKIPPED_TAGS
    if is_text and skipped.isdisjoint(element.get("class", "").split()):
        boundary = element.tag not in INLINE
        if boundary:
            texts.append(None)
        texts.append(element.text or "")
        for child in _shown(element):
            _collect(child, skipped, texts)
            texts.append(child.tail or "")
        if boundary:
            texts.append(None)
    elif element.tag == "pre":
        texts.append(None)


def _shown(element: HtmlElement) -> list[HtmlElement]:
    """The children; of LibreOffice's variants of one phrase (by system or application), the default one only."""
    children = list(element)
    if children and "switchinline" in element.get("class", "").split():
        default = [child for child in children if child.get("id", "").startswith("default")]
        return default or children[-1:]
    return children


def _join(texts: list[str | None]) -> Iterator[str]:
    """Paragraphs out of texts; what holds no letter (numbers, bullets, lone signs) is left out."""
    paragraph = ""
    for text in [*texts, None]:
        if text is not None:
            paragraph += text
            continue
        line = clean(paragraph)
        if HAS_LETTER.search(line):
            yield line
        paragraph = ""


def translated(paragraphs: list[str], english: list[str]) -> list[str]:
    """Without the paragraphs that equal one of the English page's: nobody has translated those."""
    untranslated = set(english)
    return [paragraph for paragraph in paragraphs if paragraph not in untranslated]


def without_notices(pages: dict[str, list[str]], share: float = 0.1, length: int = 60) -> dict[str, list[str]]:
    """Without the sentences that stand on more than `share` of the pages: licence notices, where to report bugs.

    Headings are repeated as often, but shorter than `length` characters, and stay.
    """
    counts = Counter(line for lines in pages.values() for line in set(lines) if len(line) >= length)
    # On a handful of pages nothing can be told from its frequency.
    notices = {line for line, count in counts.items() if count > max(share * len(pages), 20)}
    return {page: [line for line in lines if line not in notices] for page, lines in pages.items()}


def description_paragraphs(lines: list[str]) -> list[str]:
    """A package's description: the title line, then lines that begin with a blank.

    As Debian's policy has it (section 5.6.13), " ." parts paragraphs and two blanks mark a line shown as it is. List
    items are commonly written " * item", so they too begin a paragraph.
    """
    paragraphs, open_paragraph, in_item = [lines[0]], False, False
    for line in lines[1:]:
        if line.strip() in ("", "."):
            open_paragraph = False
            continue
        verbatim = line.startswith("  ")
        item = re.match(r"\s*[-*+•o]\s+\S", line) is not None
        # A line set deeper goes on with the list item above it.
        continues = open_paragraph and not item and (not verbatim or in_item)
        if continues:
            paragraphs[-1] += "\n" + line
        else:
            paragraphs.append(line)
            in_item = item
        open_paragraph = True
    return [line for line in map(clean, paragraphs) if HAS_LETTER.search(line)]

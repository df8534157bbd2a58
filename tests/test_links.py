"""Every page's links to files of this repository, and to headings in them, lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT)
    for folder in ("", "docs", "ds_configs", "launch", "tools")
    for page in (ROOT / folder).glob("**/*.md" if folder else "*.md")
)


def links_of(page: Path) -> list[tuple[str, str]]:
    """(file, heading) of every link that stays in the repository; the file is empty for the page itself."""
    targets = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    return [(file, heading) for file, _, heading in (t.partition("#") for t in targets if "://" not in t)]


def headings_of(page: Path) -> set[str]:
    """The names by which links know them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    missing = [file for file, _ in sorted(links_of(page)) if file and not (ROOT / page.parent / file).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_to_headings_lead_somewhere(page):
    for file, heading in links_of(page):
        if heading:
            assert heading in headings_of(ROOT / page.parent / file if file else ROOT / page), f"{file}#{heading}"

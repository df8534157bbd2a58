"""Every page's links to files of this repository lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT)
    for folder in ("", "docs", "ds_configs", "launch", "tools")
    for page in (ROOT / folder).glob("**/*.md" if folder else "*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target}
    missing = [target for target in sorted(targets) if target and not (ROOT / page.parent / target).exists()]
    assert not missing

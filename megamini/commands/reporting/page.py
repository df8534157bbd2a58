"""The report as one HTML file that needs nothing beside it: Markdown rendered, plots inside."""

import base64
import re
from pathlib import Path

import markdown

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 0.9rem; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.7rem; vertical-align: top; }
th { border-bottom: 2px solid #888; text-align: left; }
img { max-width: 100%; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } img { background: white; } }
"""


def html_page(title: str, text: str, folder: Path) -> str:
    """`text` (Markdown) as a page; its images, files in `folder`, are embedded."""

    def embedded(match: re.Match) -> str:
        content = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{content}"'

    reader = markdown.Markdown(extensions=["tables"])
    # A report has no HTML and no links of its own; what looks like them comes from a name.
    reader.preprocessors.deregister("html_block")
    for pattern in ("html", "link", "reference", "short_reference", "image_reference", "autolink", "automail"):
        reader.inlinePatterns.deregister(pattern)
    body = re.sub(r'src="([\w.-]+\.png)"', embedded, reader.convert(text))
    body = re.sub(r'<img [^>]*src="(?!data:image/png)[^>]*>', "", body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )

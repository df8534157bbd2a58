"""Parallel text from fetched pages: two files whose lines say the same, for adaptation.parallel.

python tools/fetch_text.py libreoffice-help --languages en de --out text
python tools/parallel_text.py text/libreoffice-help.de.jsonl text/libreoffice-help.en.jsonl --out text/parallel

Pages pair by `id`, and their lines one by one where both have the same number. Written: text/parallel.de.txt and
text/parallel.en.txt, named after the two inputs. Pages on which the task `libreoffice` is tested are left out, so that
no test page is seen in translation.
"""

import json
from pathlib import Path

from megamini.errors import CommandParser, UserError, run_command, writing
from megamini.files import write_atomically

LONGEST = 400  # characters of a line: in longer ones, too many pieces could stand for each other


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "pages", nargs=2, type=Path, metavar="FILE", help="NAME.LANG.jsonl: the new language, the source"
    )
    parser.add_argument("--out", required=True, metavar="STEM", help="the files to write are STEM.LANG.txt")
    parser.add_argument("--lines", type=int, metavar="N", help="number of lines, evenly spread over all (unset: all)")
    options = parser.parse_args()
    languages = [path.name.split(".")[-2] if path.name.count(".") > 1 else "" for path in options.pages]
    if "" in languages or languages[0] == languages[1]:
        raise UserError(f"{options.pages[0]}, {options.pages[1]}: expected NAME.LANG.jsonl of two languages")
    found = parallel_lines(*map(read_pages, options.pages))
    if not found:
        raise UserError(f"{options.pages[0]}, {options.pages[1]}: no page is in both with as many lines")
    count = min(options.lines or len(found), len(found))
    chosen = [found[number * len(found) // count] for number in range(count)]
    for side, language in enumerate(languages):
        path = Path(f"{options.out}.{language}.txt")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, "".join(f"{pair[side]}\n" for pair in chosen))
        print(f"{path}: {count:,} lines of {len(found):,}")


def read_pages(path: Path) -> dict[str, list[str]]:
    """Page id -> its lines. Raises `UserError` for a file that is none of tools/fetch_text.py's."""
    pages = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    page = json.loads(line)
                    pages[page["id"]] = [" ".join(text.split()) for text in page["text"].split("\n")]
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise UserError(f'{path}: line {number}: expected {{"id": ..., "text": ...}}') from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not valid UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; tools/fetch_text.py makes it") from None
    return pages


def parallel_lines(ours: dict[str, list[str]], theirs: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Lines of pages that both have, each pair once, without untranslated or very long ones and without test pages."""
    from megamini.downstream.tasks.topics import is_test_page

    found = {}
    for page in sorted(ours.keys() & theirs.keys()):
        if not is_test_page(page) and len(ours[page]) == len(theirs[page]):
            found |= dict.fromkeys(zip(ours[page], theirs[page], strict=True))
    return [(a, b) for a, b in found if a and b and a != b and max(len(a), len(b)) <= LONGEST]


if __name__ == "__main__":
    run_command(main)

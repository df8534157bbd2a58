"""Fetch real parallel text and word lists from Debian's packages, as an ordinary user and without installing anything.

python tools/fetch_text.py libreoffice-help --languages en de es --out text
python tools/fetch_text.py package-descriptions --languages en --out text
python tools/fetch_text.py debian --languages de --out text        # every text that there is in German
python tools/fetch_text.py freedict --languages de --out text      # a German-English word list, for adaptation.lexicon

SOURCE is libreoffice-help, package-descriptions, manpages, debian-handbook, installation-guide, debian (all of these
that exist for the language) or freedict. The command writes text/SOURCE.LANG.jsonl (one document a line), or .tsv for
freedict (a word, a tab, its translation), and text/manifest.json. Complete files are kept. text/.cache has the
downloads, and may be deleted.
"""

import argparse
import errno
import shlex
import time
from pathlib import Path

from megamini.commands.debian_text.archive import Archive
from megamini.commands.debian_text.collection import Collection
from megamini.commands.debian_text.dictionaries import FreeDict
from megamini.commands.debian_text.languages import find, normal, shown
from megamini.commands.debian_text.sources import SOURCES
from megamini.errors import CommandParser, UserError, run_command

HINTS = {
    errno.ENOSPC: "free some space, or choose another folder with --out",
    errno.EDQUOT: "free some space, or choose another folder with --out",
    errno.EACCES: "choose a folder that you may write to with --out",
    errno.EPERM: "choose a folder that you may write to with --out",
    errno.EROFS: "choose a folder that you may write to with --out",
    errno.EEXIST: "a file stands where a folder is needed; choose another folder with --out",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another folder with --out",
}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    try:
        fetch(options.source, list(dict.fromkeys(map(normal, options.languages))), options.out)
    except OSError as error:
        hint = HINTS.get(error.errno, "mend this and run again")
        raise UserError(f"{error.filename or options.out}: {error.strerror or error}; {hint}") from None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument("source", metavar="SOURCE", choices=[*SOURCES, "debian", FreeDict.name], help="what to fetch")
    parser.add_argument("--languages", nargs="+", required=True, metavar="LANG", help="codes such as en de zh pt-br")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the text")
    return parser.parse_args(arguments)


def fetch(source: str, languages: list[str], out: Path) -> None:
    """Fetch every language of `source` into `out`, one file after the other; what is complete is kept."""
    collection = Collection(out)
    with collection.locked():
        archive = Archive(out / ".cache")
        every = {**SOURCES, FreeDict.name: FreeDict}
        readers = {name: every[name](archive) for name in (SOURCES if source == "debian" else [source])}
        for language in languages:
            for name in having(language, readers) if source == "debian" else [source]:
                fetch_file(collection, readers[name], language)


def having(language: str, readers: dict) -> list[str]:
    """The names of the sources that have `language`."""
    codes = {name: reader.codes() for name, reader in readers.items()}
    names = [name for name in readers if find(language, codes[name])]
    if not names:
        known = sorted({known for source_codes in codes.values() for known in shown(source_codes)})
        raise UserError(f"language '{language}': no source has it; there are {', '.join(known)}")
    return names


def fetch_file(collection: Collection, reader, language: str) -> None:
    """Fetch one source in one language, unless its file is complete."""
    name = f"{reader.name}.{language}.{'tsv' if isinstance(reader, FreeDict) else 'jsonl'}"
    entry = collection.complete(name)
    if entry:
        print(f"{name}: complete already, kept ({summary(entry)}); delete it to fetch it anew")
        return
    start = time.monotonic()
    reading = reader.read(language)
    out = shlex.quote(str(collection.folder))
    command = f"python tools/fetch_text.py {reader.name} --languages {language} --out {out}"
    entry = collection.add(name, reader.name, language, reading, command)
    print(f"{name}: {summary(entry)}, {time.monotonic() - start:.0f} s")


def summary(entry: dict) -> str:
    return f"{entry['documents']:,} lines, {entry['utf8_bytes']:,} bytes of text"


if __name__ == "__main__":
    run_command(main)

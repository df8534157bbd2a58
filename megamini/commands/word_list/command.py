"""A word list for adaptation.lexicon out of PanLex, which has words of thousands of languages.

python tools/word_list.py panlex-20240301-csv.zip --languages de en --out words.de.tsv

The zip of CSV tables is PanLex's own release; the folder that it was unpacked to will do too. The new language comes
first, the source's second. Lists of MUSE need no tool: adaptation.lexicon reads them as they are.
"""

from itertools import groupby
from pathlib import Path

from megamini.errors import CommandParser, writing
from megamini.files import write_atomically
from megamini.languages.panlex import word_pairs


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("release", type=Path, metavar="ZIP_OR_FOLDER", help="PanLex's CSV tables")
    parser.add_argument("--languages", nargs=2, required=True, metavar="CODE", help="the new language, the source's")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.tsv", help="the list to write")
    options = parser.parse_args()
    pairs = word_pairs(options.release, *options.languages)
    with writing(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, "".join(f"{ours}\t{theirs}\n" for ours, theirs in pairs))
    words = sum(1 for _ in groupby(pairs, key=lambda pair: pair[0]))
    print(f"{options.out}: {len(pairs):,} translations of {words:,} words")

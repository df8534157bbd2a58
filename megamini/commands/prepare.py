"""Prepare text for pretraining or adaptation: a tokenizer, and blocks of token ids in memory-mapped Arrow files.

A first try, a minute on two cores:
    python tools/fetch_text.py debian-handbook --languages en --out text
    python tools/prepare_data.py --text text/debian-handbook.en.jsonl --language en --out data/en \\
        --vocab-size 4000 --block-length 128

A large corpus (any mix of .txt, .jsonl and .parquet, also .gz, .bz2, .xz or .zst), and a data set of the hub:
    python tools/prepare_data.py --text 'corpus/de-*.txt.zst' --language de --out data/de
    python tools/prepare_data.py --dataset wikimedia/wikipedia --dataset-config 20231101.de --language de --out data/de

With a tokenizer that exists already, from a folder or the hub:
    python tools/prepare_data.py --text text/debian-handbook.en.jsonl --language en --out data/en-xlmr \\
        --tokenizer FacebookAI/xlm-roberta-base

With a tokenizer that gets more pieces, so that one model reads this language beside its own (docs/more-languages.md):
    python tools/prepare_data.py --text 'corpus/el-*.txt.zst' --language el --out data/el \\
        --extend-tokenizer models/mine --add 8000

With new pieces instead of those that English uses least, so that the model keeps its size:
    python tools/prepare_data.py --text 'corpus/hu-*.txt.zst' --language hu --out data/hu \\
        --tokenizer models/mine --replace-least-used 5000 --old-text 'corpus/en-*.txt.zst'

Run the same command again after an interruption: finished parts are kept. The output depends on the text and the
options only, not on --processes.
"""

import argparse
import math
from pathlib import Path

from megamini.errors import CommandParser, UserError, run_command
from megamini.machine import usable_cores

_FEW_BLOCKS = 100  # of validation: with fewer, the second decimal of a loss is chance
_LARGEST_ADVISED = 0.1


def main() -> None:
    options = vars(_options().parse_args())
    text, out = options.pop("text"), Path(options.pop("out"))
    processes, overwrite = options.pop("processes"), options.pop("overwrite")
    if processes < 1:
        raise UserError(f"--processes {processes}: must be at least 1")
    # Slow to import; --help and a mistyped option need not wait for it.
    from megamini.data.preparation.prepare import Settings, prepare
    from megamini.files import is_missing_folder

    for name in ("tokenizer", "extend_tokenizer"):
        if options[name] and is_missing_folder(options[name]):
            option = f"--{name.replace('_', '-')} {options[name]}"
            raise UserError(f"{option}: no such folder; give one that holds tokenizer.json")
    manifest = prepare(text or [], out, Settings(**options), processes, overwrite)
    for split, facts in manifest["splits"].items():
        print(
            f"{split}: {facts['blocks']:,} blocks of {manifest['block_length']}, {facts['documents']:,} documents, "
            f"{facts['tokens']:,} tokens"
        )
        share = options["validation_share"]
        if split == "validation" and facts["blocks"] < _FEW_BLOCKS and share < _LARGEST_ADVISED:
            advised = _larger_share(share, facts["blocks"])
            print(
                f"validation: few blocks, its losses are uncertain; --validation-share {advised:g} --overwrite has more"
            )
        if facts.get("dropped_blocks"):
            print(
                f"{split}: {facts['dropped_blocks']:,} more blocks were dropped, since hardly a token of them can be "
                f"predicted: unknown to the tokenizer, or separators; {_poor_documents(manifest)}"
            )
    if vocabulary := manifest.get("vocabulary"):
        print(f"{out}: {_in_words(vocabulary)}")
    print(f"{out}: {manifest['bytes_per_token']:.2f} bytes per token, {manifest['vocab_size']:,} pieces")


def _in_words(vocabulary: dict) -> str:
    """How the tokenizer was made from another one."""
    fertility, of_old = vocabulary["fertility"], vocabulary.get("fertility_of_old_text")
    if vocabulary["kind"] == "replacement":
        return (
            f"{vocabulary['replaced_pieces']:,} of {vocabulary['old_pieces']:,} pieces replaced, which were "
            f"{vocabulary['share_of_old_tokens']:.2%} of the old text's tokens; tokens of a word: {_row(fertility)}; "
            f"in the old text: {_row(of_old)}"
        )
    kept = "every word of --old-text" if vocabulary["kept"] == "words" else "every word of the old pieces' characters"
    return (
        f"{vocabulary['added_pieces']:,} pieces beside {vocabulary['old_pieces']:,}; {kept} is cut as before; tokens "
        f"of a word: {_row(fertility)}"
    )


def _row(fertility: dict) -> str:
    return ", ".join(f"{value:.2f} {name}" for name, value in fertility.items())


def _larger_share(share: float, blocks: int) -> float:
    """The share of the documents that gives enough validation blocks, where `share` gave so few."""
    return min(math.ceil(150 * share * _FEW_BLOCKS / max(blocks, 1)) / 100, _LARGEST_ADVISED)


def _poor_documents(manifest: dict) -> str:
    names = manifest.get("poor_documents", [])
    return f"such are the documents {', '.join(names)}" if names else "no whole document is like that"


def _options() -> argparse.ArgumentParser:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", nargs="+", metavar="FILE", help="text files, or globs in quotes")
    source.add_argument("--dataset", metavar="NAME", help="a data set of the hub, or a local data set folder, streamed")
    add("--language", required=True, metavar="LANG", help="language code, such as de, ace, zh-Hans or pt-BR")
    add("--out", required=True, metavar="DIR", help="the data directory to make")
    tokenizer = parser.add_mutually_exclusive_group()
    tokenizer.add_argument(
        "--vocab-size",
        type=int,
        default=50_000,
        metavar="N",
        help="pieces of the tokenizer to train, special ones included (default: %(default)s)",
    )
    tokenizer.add_argument("--tokenizer", metavar="DIR", help="use this tokenizer (folder or hub name), train none")
    tokenizer.add_argument(
        "--extend-tokenizer", metavar="DIR", help="add pieces to this tokenizer (folder or hub name); see --add"
    )
    add("--add", type=int, metavar="N", help="pieces to add to --extend-tokenizer")
    add(
        "--replace-least-used",
        type=int,
        metavar="N",
        help="number of pieces of --tokenizer to replace by new ones: those that --old-text uses least",
    )
    add(
        "--old-text",
        nargs="+",
        metavar="FILE",
        help="text in the tokenizer's languages. With --extend-tokenizer, each word of this text is cut as before, and "
        "new pieces may use old characters. Unset: all words of old characters are cut as before",
    )
    add(
        "--decoder",
        action="store_true",
        help="the --tokenizer is a decoder's: it needs no mask token, and one token may begin, end and pad texts",
    )
    add(
        "--block-length",
        type=int,
        default=512,
        metavar="N",
        help="tokens of a block, <s> and </s> included (default: %(default)s)",
    )
    add(
        "--documents",
        choices=["blank-line", "line"],
        default="blank-line",
        help="what separates documents in .txt files (default: %(default)s)",
    )
    add("--dataset-config", metavar="C", help="configuration of --dataset")
    add("--split", default="train", metavar="S", help="split of --dataset (default: %(default)s)")
    add(
        "--text-column",
        default="text",
        metavar="NAME",
        help="the text in JSON lines, Parquet and data sets (default: %(default)s)",
    )
    add(
        "--validation-share",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of the documents for validation (default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="decides which documents are for validation (default: %(default)s)",
    )
    add(
        "--character-coverage",
        type=float,
        default=0.9998,
        metavar="SHARE",
        help="share of the text's characters that get a piece; others are read as bytes (default: %(default)s)",
    )
    add(
        "--tokenizer-sample",
        type=int,
        default=100_000_000,
        metavar="N",
        help="characters of text that the tokenizer is trained on (default: %(default)s)",
    )
    add("--processes", type=int, default=usable_cores(), metavar="N", help="(default: %(default)s)")
    add("--overwrite", action="store_true", help="delete what is in the directory, and make it again")
    return parser


if __name__ == "__main__":
    run_command(main)

"""Documents to blocks: tools/prepare_data.py beside `datasets.map`, as the transformers recipe for masked-LM does it.

python tools/benchmarks/data_preparation.py FILE.jsonl --tokenizer DIR     # writes data_preparation.md beside this file

The same text, the same tokenizer, the same number of processes, interleaved; each candidate is a process of its own,
from the start of Python to blocks on disk.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megamini.machine import usable_cores
from tools.benchmarks.page import ROOT, heading, table
from tools.benchmarks.updates import ratio, spread

OURS, THEIRS = "tools/prepare_data.py", "datasets.map"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("text", type=Path, nargs="+", help="JSON lines with a key 'text'")
    add("--tokenizer", type=Path, required=True, help="folder of a tokenizer")
    add("--block-length", type=int, default=128)
    add("--processes", type=int, default=usable_cores())
    add("--rounds", type=int, default=5)
    add("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    add("--as-theirs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_theirs:
        _theirs(options)
        return
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for number in range(-1, options.rounds):  # the first round fills the page cache
        for name in seconds:
            took = _run(name, options)
            print(f"{name:24} {took:.1f} s", flush=True)
            if number >= 0:
                seconds[name].append(took)
    size = sum(path.stat().st_size for path in options.text)
    over = ratio(seconds, THEIRS, OURS)
    page = "\n".join(
        [
            heading(
                "Data preparation: documents to blocks",
                ["datasets", "tokenizers", "transformers"],
                f"`datasets.map` takes {over[0]:.2f} times as long as `tools/prepare_data.py`.",
            ),
            f"{size / 1e6:.1f} MB of JSON lines, an existing tokenizer, blocks of {options.block_length}, "
            f"{options.processes} processes;",
            f"{options.rounds} interleaved rounds, process start included. `datasets.map` stands for `load_dataset`,",
            "`map` with the tokenizer, `map` that concatenates and cuts, both batched, and `save_to_disk`. It drops",
            "the rest of every batch of 1,000 documents. It writes no validation split, no counts and no manifest.",
            "Seconds:",
            "",
            table(["", "median", "fastest", "slowest"], spread(seconds)),
            f"**`datasets.map` over `tools/prepare_data.py`: {over[0]:.2f}** (ratio of medians; median of the rounds' "
            f"ratios {over[1]:.2f}).",
            "",
        ]
    )
    print(page)
    options.out.write_text(page, encoding="utf-8")


def _run(name: str, options: argparse.Namespace) -> float:
    texts = [str(path.resolve()) for path in options.text]
    common = ["--tokenizer", str(options.tokenizer.resolve()), "--block-length", str(options.block_length)]
    common += ["--processes", str(options.processes)]
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        if name == OURS:
            arguments = ["tools/prepare_data.py", "--text", *texts, "--language", "en", "--out", out, *common]
        else:
            arguments = [__file__, *texts, "--as-theirs", out, *common]
        # A cache of its own: `datasets` must not find the result of the round before.
        environment = os.environ | {"HF_DATASETS_CACHE": f"{folder}/cache", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True)
        took = time.perf_counter() - started
        shutil.rmtree(out)
    return took


def _theirs(options: argparse.Namespace) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    length = options.block_length
    texts = load_dataset("json", data_files=[str(path) for path in options.text], split="train")

    def tokenize(examples: dict) -> dict:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group(examples: dict) -> dict:
        joined = {key: [number for row in rows for number in row] for key, rows in examples.items()}
        total = len(next(iter(joined.values()))) // length * length
        return {key: [row[at : at + length] for at in range(0, total, length)] for key, row in joined.items()}

    tokens = texts.map(tokenize, batched=True, num_proc=options.processes, remove_columns=texts.column_names)
    tokens.map(group, batched=True, num_proc=options.processes).save_to_disk(str(options.as_theirs))


if __name__ == "__main__":
    main()

"""Finished units become the data directory: `train/`, `validation/`, counts, tokenizer, and the manifest last.

Every step may be repeated after being interrupted: a shard that is no longer in its unit is already in `train/`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from megamini.data.blocks import FORMAT, BlockWriter, Frame, features
from megamini.data.manifest import manifest_fingerprint
from megamini.data.preparation.units import NAMED_DOCUMENTS, Job, Tally, text_tokens
from megamini.data.tokenizer import fingerprint, save_tokenizer, special_roles
from megamini.errors import UserError
from megamini.files import fingerprint_of, write_json, written_whole

COPY_TOKENS = 2**20
# Of a unit that an earlier version has finished.
_NOT_YET_KEPT = {"lines": 0, "dropped": 0, "dropped_tokens": 0, "poor": []}
_LINES_OF_A_LAYOUT = 10  # of a document, on average, for lines to be taken for documents


def join_units(
    out: Path, job: Job, tokenizer: PreTrainedTokenizerBase, asked: dict[str, Any], vocabulary: dict[str, Any]
) -> dict[str, Any]:
    """Make `out` from the units in the work folder; returns the manifest. `asked` is kept in it, and `vocabulary`: how
    the tokenizer was made from another one, if it was.

    Raises UserError when the text does not fill one training block, or no document fell to validation.
    """
    folders = sorted(job.work.glob("unit-??????"))
    facts = [_NOT_YET_KEPT | json.loads((folder / "unit.json").read_text(encoding="utf-8")) for folder in folders]
    train, train_tally, leftover = _join_train(out, job, folders, facts)
    validation, validation_tally = _join_validation(out, job, folders, leftover)
    tallies = {"train": train_tally, "validation": validation_tally}
    splits = {"train": train, "validation": validation}
    for split, values in splits.items():
        values["documents"] = sum(fact["documents"][split] for fact in facts)
        values["tokens"] = text_tokens(tallies[split].counts, values["blocks"], job.frame)
    _refuse_too_small(splits, job, facts)
    for split in splits:
        _describe_for_datasets(out, split, splits[split]["shards"], job.frame)
    counts = train_tally.counts.copy()
    counts[job.special] = 0
    with written_whole(out / "unigram_counts.npy") as file:
        np.save(file, counts)
    save_tokenizer(tokenizer, out, [])
    text_bytes = sum(fact["text_bytes"] for fact in facts)
    tokens = sum(values["tokens"] for values in splits.values())
    dropped_tokens = sum(tally.dropped_tokens for tally in tallies.values())
    poor = sorted((tuple(entry) for fact in facts for entry in fact["poor"]), reverse=True)[:NAMED_DOCUMENTS]
    manifest = {
        "format": FORMAT,
        "language": asked["settings"]["language"],
        "block_length": job.frame.block_length,
        "vocab_size": job.frame.vocab_size,
        "tokenizer_fingerprint": fingerprint(tokenizer),
        "special_tokens": special_roles(tokenizer),
        "documents": sum(values["documents"] for values in splits.values()),
        "text_bytes": text_bytes,
        "tokens": tokens,
        "bytes_per_token": text_bytes / (tokens + dropped_tokens),
        **({"poor_documents": [name for _, name in poor]} if any(tally.dropped for tally in tallies.values()) else {}),
        **asked,
        **({"vocabulary": vocabulary} if vocabulary else {}),
        "splits": splits,
    }
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    write_json(out / "manifest.json", manifest)
    return manifest


def _join_train(
    out: Path, job: Job, folders: list[Path], facts: list[dict[str, Any]]
) -> tuple[dict[str, Any], Tally, np.ndarray]:
    """Move the units' shards and pack their tails; also returns what is left over [< L - 2]."""
    tally = Tally(job.special, job.frame)
    shards: list[dict[str, Any]] = []
    (out / "train").mkdir(exist_ok=True)
    for folder, fact in zip(folders, facts, strict=True):
        for shard in fact["shards"]:
            target = out / "train" / f"{len(shards):05d}.arrow"
            if (folder / shard["file"]).exists():
                (folder / shard["file"]).replace(target)
            elif not target.exists() or target.stat().st_size != shard["bytes"]:
                raise UserError(f"{target}: lost after it was made; run again with --overwrite")
            shards.append({**shard, "file": target.name})
        tally.counts += np.load(folder / "counts.npy")
        tally.least(fact["min_maskable"])
        tally.dropped += fact["dropped"]
        tally.dropped_tokens += fact["dropped_tokens"]
    writer = BlockWriter(out / "train", job.frame, tally, first_shard=len(shards))
    for folder in folders:
        writer.append(np.fromfile(folder / "tail.bin", job.frame.dtype))
    leftover = writer.drain()
    return _split_facts("train", [*shards, *writer.close()], tally), tally, leftover


def _join_validation(out: Path, job: Job, folders: list[Path], leftover: np.ndarray) -> tuple[dict[str, Any], Tally]:
    """Pack the validation documents of all units; the padded blocks, train's leftover among them, come last."""
    tally = Tally(job.special, job.frame)
    writer = BlockWriter(out / "validation", job.frame, tally)
    for folder in folders:
        with (folder / "validation.bin").open("rb") as file:
            while len(tokens := np.fromfile(file, job.frame.dtype, COPY_TOKENS)):
                writer.append(tokens)
    last = writer.drain()
    min_maskable = tally.min_maskable  # of full blocks
    lengths = [len(tokens) + 2 for tokens in (leftover, last) if writer.pad(tokens)]
    facts = _split_facts("validation", writer.close(), tally)
    padded = {"padded_blocks": len(lengths), "padded_lengths": lengths}
    return {**facts, "min_maskable": min_maskable or 0, **padded}, tally


def _split_facts(split: str, shards: list[dict[str, Any]], tally: Tally) -> dict[str, Any]:
    return {
        "blocks": sum(shard["blocks"] for shard in shards),
        "min_maskable": tally.min_maskable or 0,
        "dropped_blocks": tally.dropped,
        "shards": [{**shard, "file": f"{split}/{shard['file']}"} for shard in shards],
    }


def _refuse_too_small(splits: dict[str, Any], job: Job, facts: list[dict[str, Any]]) -> None:
    train, validation = splits["train"], splits["validation"]
    documents, lines = train["documents"] + validation["documents"], sum(fact["lines"] for fact in facts)
    count = "one document" if documents == 1 else f"{documents:,} documents"
    dropped = train["dropped_blocks"] + validation["dropped_blocks"]
    if not (train["blocks"] and validation["blocks"]) and dropped > train["blocks"] + validation["blocks"]:
        raise UserError(
            f"the tokenizer knows next to nothing of the text: {dropped} of its blocks hold hardly a token that can be "
            "predicted, and too little is left; train a tokenizer on it (without --tokenizer)"
        )
    few = not train["blocks"] or not validation["documents"]
    if few and job.layout.documents == "blank-line" and lines >= _LINES_OF_A_LAYOUT * max(1, documents):
        raise UserError(
            f"the text is {count} of {lines:,} lines, too few for two splits: blank lines separate documents; did you "
            "mean --documents line? Give that, and --overwrite"
        )
    if not train["documents"] and documents:
        alike = "" if documents == 1 else " (documents with the same id or text are never divided)"
        raise UserError(f"the text is {count}, and nothing but validation{alike}; bring more documents")
    if not train["blocks"]:
        raise UserError(
            f"the text is too small: {count} of {train['tokens'] + validation['tokens']} tokens leave no training "
            f"block of {job.frame.block_length}; bring more text, or a smaller --block-length"
        )
    if not validation["documents"]:
        raise UserError(
            f"none of the {documents:,} document{'s' * (documents != 1)} fell to validation, whose share is "
            f"{job.validation_share}; raise --validation-share, or bring more documents"
        )


def _describe_for_datasets(out: Path, split: str, shards: list[dict[str, Any]], frame: Frame) -> None:
    """What lets `datasets.load_from_disk(out / split)` work."""
    state = {
        "_data_files": [{"filename": Path(shard["file"]).name} for shard in shards],
        "_fingerprint": fingerprint_of(shards)[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    write_json(out / split / "state.json", state)
    info = {"citation": "", "description": "", "homepage": "", "license": ""}
    write_json(out / split / "dataset_info.json", {**info, "features": features(frame.block_length, frame.dtype)})

"""The tokenizer of a data directory: trained on the text, taken from elsewhere, or extended for it."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from megamini.data.corpus.chunks import cut_document
from megamini.data.corpus.documents import Layout, Unit, find_files, plan_units, read_chunks
from megamini.data.preparation.settings import Settings
from megamini.data.tokenizer import load_tokenizer, save_tokenizer, train_unigram
from megamini.data.vocabulary.extension import extend
from megamini.data.vocabulary.replacement import replace_least_used
from megamini.data.vocabulary.unigram import check_unigram
from megamini.data.vocabulary.words import count_words, fertility
from megamini.errors import UserError
from megamini.files import folder_written_whole, write_json

_FACTS = "vocabulary.json"


def tokenizer_of(
    planned: list[Unit], files: list[Path], work: Path, settings: Settings
) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """The tokenizer, and what the manifest says of how it came about; both kept in the work folder, so that a rerun
    need not make them again. planned: the units of `files`."""
    folder = work / "tokenizer"
    if not folder.exists():
        tokenizer, facts = _made(planned, files, work, settings)
        probes = [text[:2_000] for text in itertools.islice(_sample(planned, settings), 100)]
        with folder_written_whole(folder) as aside:
            save_tokenizer(tokenizer, aside, probes)
            write_json(aside / _FACTS, facts)
    facts = folder / _FACTS  # not there in a folder that an earlier version has begun
    return load_tokenizer(folder), json.loads(facts.read_text(encoding="utf-8")) if facts.is_file() else {}


def _made(
    planned: list[Unit], files: list[Path], work: Path, settings: Settings
) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    if settings.tokenizer and settings.replace_least_used is None:
        return load_tokenizer(settings.tokenizer, settings.decoder), {}
    texts = _at_least_one(_sample(planned, settings), files)
    if settings.extend_tokenizer:
        return _extended(texts, settings)
    if settings.replace_least_used:
        tokenizer, facts = _replaced(texts, settings)
        _compare_with_own(facts, len(tokenizer), planned, work, settings)
        return tokenizer, facts
    print(f"training a tokenizer of {settings.vocab_size} pieces", flush=True)
    tokenizer = train_unigram(texts, settings.vocab_size, settings.character_coverage, work / "sample.txt")
    (work / "sample.txt").unlink()
    return tokenizer, {}


def _extended(texts: Iterator[str], settings: Settings) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    where = f"--extend-tokenizer {settings.extend_tokenizer}"
    old = load_tokenizer(settings.extend_tokenizer)
    check_unigram(old, where)
    print(f"learning {settings.add} pieces beside the {len(old)} of {settings.extend_tokenizer}", flush=True)
    old_words = None if settings.old_text is None else count_words(_whole(settings.old_text, settings.layout), old)
    return extend(old, count_words(texts, old), old_words, settings.add, settings.character_coverage, where)


def _replaced(texts: Iterator[str], settings: Settings) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    where, count = f"--tokenizer {settings.tokenizer}", settings.replace_least_used
    old = load_tokenizer(settings.tokenizer, settings.decoder)
    check_unigram(old, where)
    print(f"learning {count} pieces in the place of {count} of the {len(old)} of {settings.tokenizer}", flush=True)
    old_words = count_words(_whole(settings.old_text, settings.layout), old)
    return replace_least_used(old, count_words(texts, old), old_words, count, settings.character_coverage, where)


def _compare_with_own(facts: dict[str, Any], pieces: int, planned: list[Unit], work: Path, settings: Settings) -> None:
    """Add the fertility of a tokenizer of the new text alone, of as many pieces or as many as there are."""
    scratch = work / "sample.txt"
    own = train_unigram(_sample(planned, settings), pieces, settings.character_coverage, scratch, exactly=False)
    scratch.unlink()
    facts["fertility"]["new"] = fertility(count_words(_sample(planned, settings), own), own)
    old_text = _whole(settings.old_text, settings.layout)
    facts["fertility_of_old_text"]["new"] = fertility(count_words(old_text, own), own)


def _whole(names: list[str], layout: Layout) -> Iterator[str]:
    """All text of some files."""
    for unit in plan_units(find_files(names, "--old-text"), layout):
        for chunk in read_chunks(unit, layout):
            yield chunk.text


def _at_least_one(texts: Iterator[str], files: list[Path]) -> Iterator[str]:
    first = next(texts, None)
    if first is None:
        raise UserError(f"{files[0] if files else 'the data set'}: holds no documents")
    return itertools.chain([first], texts)


def _sample(planned: list[Unit], settings: Settings) -> Iterator[str]:
    """The beginning of each unit, in all about `tokenizer_sample` characters."""
    if settings.dataset:
        streams = [(chunk.text for record in settings.records() for chunk in cut_document(record["text"] or ""))]
    else:
        streams = [(chunk.text for chunk in read_chunks(unit, settings.layout)) for unit in planned]
    share = -(-settings.tokenizer_sample // len(streams))
    for stream in streams:
        left = share
        for text in stream:
            yield text[:left]
            left -= len(text)
            if left <= 0:
                break

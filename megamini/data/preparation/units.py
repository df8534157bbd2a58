"""Tokenize and pack one unit of the corpus, and do so for all units in several processes.

A unit's work lies in `unit-000000/`: `00000.arrow`, ... (full blocks of training text), `tail.bin` (the training tokens
that fill no block), `validation.bin` (the tokens of the validation documents), `counts.npy` and `unit.json`. The folder
gets that name when all of it is on the disk, and what is in it depends on the unit and the settings only.
"""

import hashlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from megamini.data.blocks import BlockWriter, Frame
from megamini.data.corpus.chunks import Chunk
from megamini.data.corpus.documents import Layout, Unit, read_chunks
from megamini.data.preparation.encoding import TextEncoder, WordEncoder
from megamini.errors import UserError
from megamini.files import write_json
from megamini.machine import usable_cores

BATCH_CHARACTERS = 2**20
BATCH_CHUNKS = 2**12
# A block with a smaller share of tokens that can be predicted says next to nothing, and could not be masked by the
# usual shares: the tokenizer knows none of its characters, or it consists of separators.
LEAST_MASKABLE = 0.3
NAMED_DOCUMENTS = 5
NAME_CHARACTERS = 40


@dataclass(frozen=True)
class Job:
    """What every unit needs to know. `encoder` is the tokenizer's Rust part, as JSON, `word_by_word` whether it
    treats each word alone; `special` [V] is true for special ids, `unk` the id of the unknown token if there is one."""

    work: Path
    layout: Layout
    frame: Frame
    encoder: str
    word_by_word: bool
    special: np.ndarray
    unk: int | None
    seed: int
    validation_share: float

    def text_encoder(self) -> TextEncoder:
        tokenizer = Tokenizer.from_str(self.encoder)
        tokenizer.encode_special_tokens = True  # is not kept in the JSON
        return WordEncoder(tokenizer) if self.word_by_word else TextEncoder(tokenizer)


class Tally:
    """Counts each id, and the fewest maskable (non-special) tokens of a block, over the blocks it is shown; tells which
    of them to keep, and counts the others and the tokens of text in them."""

    def __init__(self, special: np.ndarray, frame: Frame):
        self.maskable, self.frame = ~special, frame
        self.counts = np.zeros(len(special), np.int64)
        self.min_maskable: int | None = None
        self.dropped, self.dropped_tokens = 0, 0

    def __call__(self, blocks: np.ndarray) -> np.ndarray:
        """Blocks [n, L], or one without its pads [1, shorter] -> which to keep, bool [n]."""
        maskable = self.maskable[blocks].sum(axis=1)
        full = blocks.shape[1] == self.frame.block_length
        kept = maskable >= (max(1, LEAST_MASKABLE * self.frame.content) if full else 1)
        if not kept.all():
            dropped = blocks[~kept]
            self.dropped += len(dropped)
            self.dropped_tokens += text_tokens(np.bincount(dropped.reshape(-1)), len(dropped), self.frame)
        if kept.any():
            self.counts += np.bincount(blocks[kept].reshape(-1), minlength=len(self.counts))
            self.least(int(maskable[kept].min()))
        return kept

    def least(self, maskable: int | None) -> None:
        """Take note of blocks of which the poorest has `maskable` such tokens; None for no blocks."""
        self.min_maskable = min((count for count in (self.min_maskable, maskable) if count is not None), default=None)


def text_tokens(counts: np.ndarray, blocks: int, frame: Frame) -> int:
    """The tokens of text in blocks with these `counts` of ids, pads left out: all but bos and separators."""
    separators = int(counts[frame.eos]) - blocks * (2 if frame.bos == frame.eos else 1)
    return int(counts.sum()) - 2 * blocks - separators


def is_validation(key: str, seed: int, share: float) -> bool:
    """Whether the document known by `key` belongs to the validation split: a hash, so equal documents stay together."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


# --- one unit ---------------------------------------------------------------------------------------------------------


def process_unit(number: int, unit: Unit, job: Job, encoder: TextEncoder) -> None:
    """Tokenize and pack `unit` into `unit-NUMBER/` of the work folder. Constant memory."""
    aside = job.work / f"unit-{number:06d}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    tally, streams = Tally(job.special, job.frame), _Streams(job, encoder)
    writer = BlockWriter(aside, job.frame, tally)
    with (aside / "validation.bin").open("wb") as validation:
        for batch in _batches(read_chunks(unit, job.layout)):
            tokens = streams.encode(batch)
            writer.append(tokens["train"])
            validation.write(tokens["validation"].tobytes())
        _to_disk(validation)
    tail = writer.drain()
    with (aside / "tail.bin").open("wb") as file:
        file.write(tail.tobytes())
        _to_disk(file)
    with (aside / "counts.npy").open("wb") as file:
        np.save(file, tally.counts)
        _to_disk(file)
    facts = {
        "documents": streams.documents,
        "lines": streams.lines if unit.kind == "text" else 0,
        "text_bytes": streams.text_bytes,
        "min_maskable": tally.min_maskable,
        "dropped": tally.dropped,
        "dropped_tokens": tally.dropped_tokens,
        "poor": [[tokens, f"{Path(unit.path).name}: {name!r}"] for tokens, name in streams.poor],
        "shards": writer.close(),
    }
    write_json(aside / "unit.json", facts)
    aside.rename(job.work / f"unit-{number:06d}")


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Streams:
    """Sorts the tokens of documents into the streams of the two splits, a separator behind each document.

    A document may span batches, so its split is remembered. `poor`: (tokens, how it is known) of the longest documents
    of which hardly anything can be predicted. `lines`: of all documents.
    """

    def __init__(self, job: Job, encoder: TextEncoder):
        self.job, self.encoder = job, encoder
        self.documents = {"train": 0, "validation": 0}
        self.text_bytes, self.lines = 0, 0
        self.poor: list[tuple[int, str]] = []
        self._split, self._name = "train", ""
        self._separator = np.array([job.frame.eos], job.frame.dtype)

    def encode(self, batch: list[Chunk]) -> dict[str, np.ndarray]:
        """Chunks -> split -> stream tokens [n]."""
        tokens = [ids.astype(self.job.frame.dtype) for ids in self.encoder.encode([chunk.text for chunk in batch])]
        self._read_specials_as_unknown(tokens)
        maskable = self._maskable(tokens)
        streams: dict[str, list[np.ndarray]] = {split: [self._separator[:0]] for split in self.documents}
        for chunk, ids, own in zip(batch, tokens, maskable, strict=True):
            if chunk.key is not None:
                self._name = chunk.key[:NAME_CHARACTERS]
                self.lines += 1
                validation = is_validation(chunk.key, self.job.seed, self.job.validation_share)
                self._split = "validation" if validation else "train"
                self.documents[self._split] += 1
            if own <= LEAST_MASKABLE * len(ids):
                self.poor = sorted([*self.poor, (len(ids), self._name)], reverse=True)[:NAMED_DOCUMENTS]
            self.text_bytes += len(chunk.text.encode())
            self.lines += chunk.text.count("\n")
            streams[self._split].append(ids)
            if chunk.last:
                streams[self._split].append(self._separator)
        return {split: np.concatenate(parts) for split, parts in streams.items()}

    def _maskable(self, tokens: list[np.ndarray]) -> list[int]:
        """How many tokens of each chunk can be predicted."""
        owner = np.repeat(np.arange(len(tokens)), [len(ids) for ids in tokens])
        return np.bincount(owner[~self.job.special[np.concatenate(tokens)]], minlength=len(tokens)).tolist()

    def _read_specials_as_unknown(self, tokens: list[np.ndarray]) -> None:
        """In place. With a foreign tokenizer a text may spell a special token in a way that reaches its id."""
        if self.job.unk is not None and self.job.special[np.concatenate(tokens)].any():
            for ids in tokens:
                ids[self.job.special[ids]] = self.job.unk


def _batches(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    batch, characters = [], 0
    for chunk in chunks:
        batch.append(chunk)
        characters += len(chunk.text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_CHUNKS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


# --- all units --------------------------------------------------------------------------------------------------------


def process_units(units: Iterable[tuple[int, Unit]], job: Job, processes: int) -> Iterator[Unit]:
    """Process the numbered `units`; yields each as it is finished. `units` is read only a little ahead.

    Raises UserError when a worker process dies, and what a worker raised.
    """
    if processes == 1:
        encoder = job.text_encoder()
        for number, unit in units:
            process_unit(number, unit, job, encoder)
            yield unit
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, usable_cores() // processes)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(job, threads))
    try:
        yield from _in_pool(pool, units, ahead=2 * processes)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for lack of memory; run again with fewer --processes: "
            "what is finished is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _no_script_to_import() -> Iterator[None]:
    """Workers that start in here import nothing of the caller's script, which would run once more where it has no
    `if __name__ == "__main__"`. They need nothing of it."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _in_pool(pool: ProcessPoolExecutor, units: Iterable[tuple[int, Unit]], ahead: int) -> Iterator[Unit]:
    waiting, running = iter(units), {}
    while True:
        with _no_script_to_import():
            for number, unit in itertools.islice(waiting, ahead - len(running)):
                running[pool.submit(_work, number, unit)] = unit
        if not running:
            return
        done: set[Future] = wait(running, return_when=FIRST_COMPLETED).done
        for future in done:
            future.result()
            yield running.pop(future)


_worker: tuple[Job, TextEncoder]


def _start_worker(job: Job, threads: int) -> None:
    global _worker
    # An interrupt from the keyboard reaches the whole group; the parent ends the run when running units are done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The machine's cores are divided among the workers; the tokenizer's Rust threads are what uses them.
    os.environ.update(TOKENIZERS_PARALLELISM="true" if threads > 1 else "false", RAYON_NUM_THREADS=str(threads))
    _worker = job, job.text_encoder()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, and could write beside the next run."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(number: int, unit: Unit) -> None:
    job, encoder = _worker
    process_unit(number, unit, job, encoder)

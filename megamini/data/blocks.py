"""Blocks of token ids in memory-mapped Arrow shards: the writer, the manifest and the reader.

A shard is an Arrow IPC stream with one column, `input_ids`, of fixed-size lists: what `datasets.Dataset.from_file`
memory-maps. `manifest.json` names the shards of both splits; it is written last, so its presence means complete.
"""

import contextlib
import io
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from megamini.data.manifest import check_manifest, manifest_fingerprint
from megamini.errors import UserError
from megamini.files import HashedFile, fingerprint_of, parse_json, written_whole

FORMAT = 1
SPLITS = ("train", "validation")
SHARD_BLOCKS = 2**20
BATCH_BLOCKS = 2**14
_MOST_OPEN_FILES = 128  # of a reader; systems allow a process about a thousand
BATCH_TOKENS = 2**23  # long blocks: fewer of them a record batch, so that a batch stays near 16 MiB


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 where it holds every id, else int32."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.int32)


def features(block_length: int, dtype: np.dtype) -> dict[str, Any]:
    """The `datasets` description of a shard's one column."""
    value = {"dtype": np.dtype(dtype).name, "_type": "Value"}
    return {"input_ids": {"feature": value, "length": block_length, "_type": "List"}}


def shard_schema(block_length: int, dtype: np.dtype) -> pa.Schema:
    column = pa.list_(pa.from_numpy_dtype(dtype), block_length)
    described = json.dumps({"info": {"features": features(block_length, dtype)}})
    return pa.schema([("input_ids", column)], metadata={"huggingface": described})


# --- writing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What makes a block out of a part of the token stream: `block_length` ids, the first `bos`, the last `eos`."""

    block_length: int
    vocab_size: int
    bos: int
    eos: int
    pad: int

    @property
    def content(self) -> int:
        return self.block_length - 2

    @property
    def dtype(self) -> np.dtype:
        return token_dtype(self.vocab_size)

    def full(self, stream: np.ndarray) -> np.ndarray:
        """Stream tokens [n * (L - 2)] -> blocks [n, L]."""
        blocks = np.empty((len(stream) // self.content, self.block_length), self.dtype)
        blocks[:, 0], blocks[:, -1] = self.bos, self.eos
        blocks[:, 1:-1] = stream.reshape(-1, self.content)
        return blocks

    def padded(self, stream: np.ndarray) -> np.ndarray:
        """Stream tokens [fewer than L - 2] -> one block [1, L]: bos, the tokens, eos, pads."""
        block = np.full((1, self.block_length), self.pad, self.dtype)
        block[0, 0] = self.bos
        block[0, 1 : len(stream) + 1] = stream
        block[0, len(stream) + 1] = self.eos
        return block


class BlockWriter:
    """Turns a stream of tokens into shards `00000.arrow`, ... in `directory`; constant memory.

    `watch` sees every batch of blocks [n, L], a padded one without its pads, before it is written, and may say which of
    them [n] to keep. `shards` lists the finished files as the manifest does.
    """

    def __init__(
        self, directory: Path, frame: Frame, watch: Callable[[np.ndarray], np.ndarray | None], first_shard: int = 0
    ):
        self.directory, self.frame, self.watch = directory, frame, watch
        self.shards: list[dict[str, Any]] = []
        self._next_shard = first_shard
        self._batch_tokens = frame.content * min(BATCH_BLOCKS, max(1, BATCH_TOKENS // frame.block_length))
        self._held: list[np.ndarray] = []
        self._tokens = 0
        self._open: _Shard | None = None

    def append(self, tokens: np.ndarray) -> None:
        """Add stream tokens [n] of any integer type."""
        self._held.append(tokens.astype(self.frame.dtype, copy=False))
        self._tokens += len(tokens)
        if self._tokens >= self._batch_tokens:
            stream = np.concatenate(self._held)
            whole = len(stream) - len(stream) % self._batch_tokens
            for start in range(0, whole, self._batch_tokens):
                self._write(self.frame.full(stream[start : start + self._batch_tokens]))
            self._held, self._tokens = [stream[whole:].copy()], len(stream) - whole

    def drain(self) -> np.ndarray:
        """Write the full blocks that are left; returns the tokens that fill none [< L - 2]."""
        stream = np.concatenate([*self._held, np.empty(0, self.frame.dtype)])
        whole = len(stream) - len(stream) % self.frame.content
        if whole:
            self._write(self.frame.full(stream[:whole]))
        self._held, self._tokens = [], 0
        return stream[whole:]

    def pad(self, tokens: np.ndarray) -> int:
        """Write what fills no block [< L - 2] as one padded block; returns the number of blocks written, 0 or 1."""
        return self._write(self.frame.padded(tokens), len(tokens) + 2) if len(tokens) else 0

    def close(self) -> list[dict[str, Any]]:
        """Finish the last shard; returns all of them."""
        if self._open is not None:
            self.shards.append(self._open.close())
            self._open = None
        return self.shards

    def _write(self, blocks: np.ndarray, length: int | None = None) -> int:
        """Write what is to be kept of `blocks`, of which the first `length` ids are no pads; returns their number."""
        kept = self.watch(blocks[:, :length])
        blocks = blocks if kept is None else blocks[kept]
        if not len(blocks):
            return 0
        if self._open is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._open = _Shard(self.directory / f"{self._next_shard:05d}.arrow", self.frame)
            self._next_shard += 1
        self._open.write(blocks)
        if self._open.blocks >= SHARD_BLOCKS:
            self.close()
        return len(blocks)


class _Shard:
    """One shard being written."""

    def __init__(self, path: Path, frame: Frame):
        self.path, self.frame, self.blocks = path, frame, 0
        self._exit = ExitStack()
        self._sink = HashedFile(self._exit.enter_context(written_whole(path)))
        self._schema = shard_schema(frame.block_length, frame.dtype)
        self._stream = pa.ipc.new_stream(self._sink, self._schema)

    def write(self, blocks: np.ndarray) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(blocks.reshape(-1)), self.frame.block_length)
        self._stream.write_batch(pa.record_batch([column], schema=self._schema))
        self.blocks += len(blocks)

    def close(self) -> dict[str, Any]:
        """Give the file its name; returns its entry in the manifest."""
        self._stream.close()
        self._exit.close()
        entry = {"file": self.path.name, "blocks": self.blocks}
        return {**entry, "bytes": self._sink.bytes, "sha256": self._sink.sha256.hexdigest()}


# --- manifest -------------------------------------------------------------------------------------------------------


def fingerprint_of_all(manifests: Sequence[dict[str, Any]], weights: Sequence[float] | None) -> str:
    """That of one data directory, or of several together with the weights that a recipe gives them."""
    fingerprints = [manifest["fingerprint"] for manifest in manifests]
    return fingerprints[0] if len(fingerprints) == 1 else fingerprint_of([fingerprints, weights and list(weights)])


def load_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """`manifest.json` of a data directory.

    Raises UserError when the directory or the manifest is missing, torn, of another format, or was edited, and for a
    value that no manifest of ours has.
    """
    path = Path(directory) / "manifest.json"
    if Path(directory).is_file():
        raise UserError(f"{directory}: a file; give a data directory, which tools/prepare_data.py makes")
    try:
        manifest = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{directory}: no finished data directory (no manifest.json); run tools/prepare_data.py --out {directory}"
        ) from None
    except ValueError:
        raise UserError(
            f"{path}: not valid JSON, torn? Make the data again: tools/prepare_data.py --overwrite"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path}: not a data manifest of format {FORMAT}; make the data again: tools/prepare_data.py")
    with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair, which no manifest of ours has
        if manifest.get("fingerprint") == manifest_fingerprint(manifest):
            check_manifest(manifest, path)
            return manifest
    raise UserError(f"{path}: does not agree with its own fingerprint, it was changed; make the data again")


# --- reading --------------------------------------------------------------------------------------------------------


class Blocks:
    """The blocks of one split, read at random: `read(indices)`.

    Opening reads the manifest and checks that each shard is there in full size; a shard is indexed when first touched.
    May be pickled and forked. Raises UserError for a bad manifest and a missing or truncated shard.
    """

    def __init__(self, directory: str | os.PathLike, split: str):
        self.directory, self.split = Path(directory), split
        self.manifest = load_manifest(directory)
        if split not in self.manifest["splits"]:
            raise UserError(f"{directory}: no split '{split}'; there are {', '.join(self.manifest['splits'])}")
        self.block_length: int = self.manifest["block_length"]
        self.dtype = token_dtype(self.manifest["vocab_size"])
        self._shards = self.manifest["splits"][split]["shards"]
        self._ends = np.cumsum([0, *(shard["blocks"] for shard in self._shards)])[1:]
        self._indexed: dict[int, _IndexedShard] = {}
        self._files: dict[int, io.FileIO] = {}
        for shard in self._shards:
            self._check(shard)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Blocks `indices` [n] -> ids [n, L] of the stored type (uint16 or int32). Raises IndexError out of range."""
        indices = np.asarray(indices, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"block {indices.min()} or {indices.max()} is not among the {len(self)} of {self.split}")
        out = np.empty((len(indices), self.block_length), self.dtype)
        shards = np.searchsorted(self._ends, indices, side="right")
        for row, (index, shard) in enumerate(zip(indices.tolist(), shards.tolist(), strict=True)):
            local = index - int(self._ends[shard]) + self._shards[shard]["blocks"]
            indexed = self._index(shard)
            out[row] = indexed.read(local, self._file(shard, indexed.path))
        return out

    def read_run(self, start: int, end: int) -> np.ndarray:
        """The neighbouring blocks start..end-1 -> ids [end - start, L] of the stored type, with one read of a file
        where they lie in one record batch, as nearly all do."""
        parts = []
        while start < end:
            shard = int(np.searchsorted(self._ends, start, side="right"))
            local = start - int(self._ends[shard]) + self._shards[shard]["blocks"]
            indexed = self._index(shard)
            count = min(end - start, int(self._ends[shard]) - start)
            parts.append(indexed.read_run(local, count, self._file(shard, indexed.path)))
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        """How many ids of blocks `indices` [n] are no padding, int64 [n]; the padded blocks are the last of a split."""
        lengths = np.full(len(indices), self.block_length, np.int64)
        behind = np.asarray(indices) - (len(self) - len(self._padded_lengths))
        lengths[behind >= 0] = self._padded_lengths[behind[behind >= 0]]
        return lengths

    @cached_property
    def _padded_lengths(self) -> np.ndarray:
        """Those of the last blocks. Earlier manifests say only how many are padded: there the pads at their ends tell,
        unless they may be separators."""
        facts = self.manifest["splits"][self.split]
        if "padded_lengths" in facts or not facts.get("padded_blocks"):
            return np.array(facts.get("padded_lengths", []), np.int64)
        roles = self.manifest["special_tokens"]
        if roles["pad"] in (roles["bos"], roles["eos"]):
            raise UserError(
                f"{self.directory}: its tokenizer uses one token as padding and as end of text, and an earlier version "
                "could not tell the two apart; make the data again: tools/prepare_data.py --overwrite"
            )
        filled = self.read(np.arange(len(self) - facts["padded_blocks"], len(self))) != roles["pad"]
        return self.block_length - np.argmax(filled[:, ::-1], axis=1).astype(np.int64)

    def _index(self, shard: int) -> "_IndexedShard":
        if shard not in self._indexed:
            entry = self._shards[shard]
            self._check(entry)
            path = self.directory / entry["file"]
            self._indexed[shard] = _IndexedShard(path, entry, self.block_length, self.dtype)
        return self._indexed[shard]

    def _file(self, shard: int, path: Path) -> io.FileIO:
        """The open file of a shard; the one that was opened first makes room for it."""
        if shard not in self._files:
            while len(self._files) >= _MOST_OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            self._files[shard] = path.open("rb", buffering=0)
        return self._files[shard]

    def _check(self, shard: dict[str, Any]) -> None:
        path = self.directory / shard["file"]
        try:
            size = path.stat().st_size
        except OSError:
            raise UserError(f"{path}: the shard is missing; make the data again: tools/prepare_data.py") from None
        if size != shard["bytes"]:
            raise UserError(
                f"{path}: {size} bytes, the manifest says {shard['bytes']}: truncated or replaced; make the data again"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_indexed": {}, "_files": {}}


class _IndexedShard:
    """Where each record batch of a shard lies in its file, and nothing else, so that thousands of shards cost a few
    kilobytes each. The file is mapped to find that out, and read without a mapping: pages of the whole corpus would
    pile up in the resident memory of every loader process."""

    def __init__(self, path: Path, shard: dict[str, Any], block_length: int, dtype: np.dtype):
        self.path, self._block_length, self._dtype = path, block_length, dtype
        try:
            with pa.memory_map(str(path)) as source:
                content = source.read_buffer()
                columns = [batch.column("input_ids") for batch in pa.ipc.open_stream(content)]
                offsets = [_address(column) - content.address for column in columns]
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{path}: not a shard of blocks: {error}; make the data again") from None
        counts = np.cumsum([0, *(len(column) for column in columns)])
        if counts[-1] != shard["blocks"]:
            raise UserError(
                f"{path}: holds {counts[-1]} blocks, the manifest says {shard['blocks']}; make the data again"
            )
        self._starts, self._ends, self._offsets = counts[:-1], counts[1:], np.array(offsets, np.int64)

    def read(self, number: int, file: io.FileIO) -> np.ndarray:
        """Ids [L] of a block of this shard, from its open `file`."""
        return self.read_run(number, 1, file)[0]

    def read_run(self, number: int, count: int, file: io.FileIO) -> np.ndarray:
        """Ids [n, L] of `count` blocks from one on, or of as many of them as its record batch has."""
        batch = int(np.searchsorted(self._starts, number, side="right")) - 1
        size = self._block_length * self._dtype.itemsize
        count = min(count, int(self._ends[batch]) - number)
        start = int(self._offsets[batch]) + (number - int(self._starts[batch])) * size
        content = os.pread(file.fileno(), count * size, start)
        if len(content) < count * size:
            raise UserError(f"{self.path}: ends early, truncated while it was read; make the data again")
        return np.frombuffer(content, self._dtype).reshape(count, self._block_length)


def _address(column: pa.FixedSizeListArray) -> int:
    """Where the ids of a record batch begin in memory."""
    ids = column.flatten()
    return ids.buffers()[1].address + ids.offset * ids.type.byte_width

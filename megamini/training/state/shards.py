"""Training state that belongs to no engine: fp32 slices of flattened parameters, and of the optimizer's moments.

Each rank writes the slices that it holds into a safetensors file, or several where its states lie on disk, and reads
those that it needs from whichever files have them. So a run saved by N ranks at one ZeRO stage goes on with M ranks at
another, or without DeepSpeed, and nobody ever gathers a whole model. A rank that finds what it needs in the files of
its own number opens no other.
"""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from megamini.errors import UserError
from megamini.files import write_tensors

WEIGHT = "weight"
STEP = "step"
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # AdamW's two, Muon's one
_MAPPED_BYTES = 256 * 2**20  # read from files before they are let go: pages that were read count as resident memory


@dataclass(frozen=True)
class Slice:
    """Part of a parameter, from element `start` of its flattened form.

    tensors: flat fp32, `weight` and, once the optimizer has moved, its `MOMENTS` of the same length, and with AdamW
    `step`, its count of steps, fp32 [1].
    """

    name: str
    start: int
    tensors: dict[str, torch.Tensor]

    def snapshot(self) -> "Slice":
        """A copy in the CPU's memory that later updates do not touch."""
        copies = {kind: value.detach().to("cpu", torch.float32, copy=True) for kind, value in self.tensors.items()}
        return Slice(self.name, self.start, copies)


def file_of(directory: Path, rank: int, part: int = 0) -> Path:
    """The file of a rank, or of one part of what it holds."""
    return directory / f"state-{rank:05d}{f'-{part:05d}' if part else ''}.safetensors"


def write_slices(directory: Path, rank: int, slices: Iterable[Slice], part: int = 0) -> Path:
    """Write slices of a rank; returns their file. Raises OSError or SafetensorError where they cannot be written."""
    tensors = {
        f"{kind}:{one.start}:{one.name}": value.detach().cpu().contiguous()
        for one in slices
        for kind, value in one.tensors.items()
    }
    write_tensors(tensors, file := file_of(directory, rank, part))
    return file


class Shards:
    """The state in a checkpoint folder, whichever ranks wrote it."""

    def __init__(self, directory: Path, rank: int = 0) -> None:
        """`rank`: of the reader, whose own files are looked at first. Raises UserError where there is no state."""
        self._directory = directory
        files = sorted(directory.glob("state-*.safetensors"))
        if not files:
            raise UserError(f"{directory}: holds no training state (state-*.safetensors)")
        own = [file for file in files if file.stem.startswith(file_of(directory, rank).stem)]
        self._unread = [file for file in files if file not in own]
        # (kind, name) -> starts, in order, and beside them (number of elements, file).
        self._slices: dict[tuple[str, str], list[tuple[int, int, Path]]] = {}
        self._open: dict[Path, safe_open] = {}
        self._bytes_read = 0
        for file in own:
            self._list(file)

    def names(self) -> set[str]:
        """Names of all parameters."""
        self._list_all()
        return {name for _, name in self._slices}

    def read(self, kind: str, name: str, start: int, numel: int) -> torch.Tensor | None:
        """Elements [start, start + numel) of a parameter's `kind`, fp32 [numel]; None where the optimizer kept none.

        Raises UserError where the parameter is not there, or not as a whole.
        """
        found = self._assembled(kind, name, start, numel)
        if found is None:
            self._list_all()
            found = self._assembled(kind, name, start, numel)
        if found is None and (kind == WEIGHT or (kind, name) in self._slices):
            raise UserError(f"{self._directory}: holds no '{name}' of that size; was the recipe of the run changed?")
        return found

    def moments(self, name: str) -> list[str]:
        """Which of `MOMENTS` the optimizer kept of a parameter; none before its first step."""
        return [kind for kind in MOMENTS if self._slices_of(kind, name)]

    def step(self, name: str) -> torch.Tensor | None:
        """AdamW's count of steps of a parameter, fp32 [1]; None before the first, and with Muon."""
        if not (slices := self._slices_of(STEP, name)):
            return None
        start, _, file = slices[0]
        return self._file(file).get_tensor(f"{STEP}:{start}:{name}")

    def _slices_of(self, kind: str, name: str) -> list[tuple[int, int, Path]]:
        """Those of the files listed so far, if they have any of the parameter: its kinds are never apart."""
        if (WEIGHT, name) not in self._slices:
            self._list_all()
        return self._slices.get((kind, name), [])

    def _assembled(self, kind: str, name: str, start: int, numel: int) -> torch.Tensor | None:
        """What the files listed so far have of it, if they have it whole."""
        slices = self._slices.get((kind, name), [])
        parts, at, end = [], start, start + numel
        row = max(0, bisect.bisect_right(slices, start, key=lambda one: one[0]) - 1)
        for first, length, file in slices[row:]:
            if at >= end:
                break
            if first <= at < first + length:
                upto = min(end, first + length)
                parts.append(self._file(file).get_slice(f"{kind}:{first}:{name}")[at - first : upto - first])
                at = upto
        if at < end or not parts:
            return None
        self._let_go_after(4 * numel)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _let_go_after(self, count: int) -> None:
        """Close all files once enough bytes have been read from them; they are opened again where they are needed."""
        self._bytes_read += count
        if self._bytes_read > _MAPPED_BYTES:
            self._open.clear()
            self._bytes_read = 0

    def _file(self, path: Path) -> safe_open:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: not a whole file of training state: {error}") from None
        return self._open[path]

    def _list_all(self) -> None:
        while self._unread:
            self._list(self._unread.pop())

    def _list(self, path: Path) -> None:
        file = self._file(path)
        for key in file.keys():  # noqa: SIM118 (no mapping)
            kind, start, name = key.split(":", 2)
            numel = file.get_slice(key).get_shape()[0]
            bisect.insort(self._slices.setdefault((kind, name), []), (int(start), numel, path))

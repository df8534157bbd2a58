"""Files and folders that are complete or do not exist under their name; what they hold is known by its checksum."""

import hashlib
import json
import lzma
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from megamini.errors import writing

if TYPE_CHECKING:
    import torch

DAMAGE = (EOFError, zlib.error, lzma.LZMAError)
"""What reading torn or invalid compressed bytes raises, besides an OSError without a number (gzip and bz2)."""
_MOST_DIGITS = 4_000


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is complete and on the disk. Raises OSError."""
    aside = path.with_name(f".{path.name}.part")
    with aside.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file so that a reader, or a kill, sees the old or the new one whole. Raises `UserError`."""
    with writing(path), written_whole(path) as stream:
        stream.write(text.encode("utf-8", "replace"))


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` of a value as JSON."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


@contextmanager
def folder_written_whole(folder: Path, replace: bool = False) -> Iterator[Path]:
    """An empty folder that becomes `folder` when all in it is written, and no earlier. Raises OSError.

    replace: whether it takes the place of what is there.
    """
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    if replace:
        shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def write_tensors(tensors: "Mapping[str, torch.Tensor]", path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises OSError or SafetensorError where that fails.

    The library makes a file that is its owner's alone; this one has the permissions that the process gives new files.
    """
    from safetensors.torch import save_file  # who prepares text needs no torch

    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=metadata)
    path.chmod(mode)


def flush_directory(directory: Path) -> None:
    """Bring a folder's names to disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes. Raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(value: Any) -> str:
    """SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # paths may be of another locale


def parse_json(text: str | bytes) -> Any:
    """`json.loads` whose every failure is a ValueError of one line: text that is torn, no UTF-8, nested too deeply."""
    try:
        return json.loads(text, parse_int=_number)
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON, torn? ({error.msg})") from None
    except RecursionError:
        raise ValueError("not JSON of ours: nested too deeply") from None


def _number(digits: str) -> int | float:
    """The library refuses integers of more digits, which nobody means to count with."""
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def printable(name: str | Path) -> str:
    """A file's name as text can hold it: what is no character in this locale is replaced."""
    return str(name).encode("utf-8", "replace").decode()


def is_missing_folder(name: str) -> bool:
    """Whether `name`, a folder or a hub name, can only be a folder, and there is none."""
    is_path = name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1
    return is_path and not Path(name).is_dir()


class HashedFile:
    """A file for Arrow to write to that knows the checksum and the number of bytes so far."""

    closed = False

    def __init__(self, stream: IO[bytes]):
        self.stream, self.sha256, self.bytes = stream, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.bytes += len(memoryview(data))
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()

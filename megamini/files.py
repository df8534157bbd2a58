"""Files that are complete or do not exist under their name."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_MOST_DIGITS = 4_000


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is complete and on the disk."""
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def write_json(path: Path, value: Any) -> None:
    with written_whole(path) as stream:
        stream.write((json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def printable(name: str | Path) -> str:
    """A file's name as text can hold it: what is no character in this locale is replaced."""
    return str(name).encode("utf-8", "replace").decode()


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

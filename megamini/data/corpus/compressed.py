"""Compressed files, read to the end: several members or frames, and a torn one is an error."""

import bz2
import gzip
import io
import lzma
from pathlib import Path
from typing import IO, Any

import zstandard

from megamini import files

# What reading a torn or invalid file raises, besides an OSError without a number (gzip and bz2).
DAMAGE = (*files.DAMAGE, zstandard.ZstdError)


def open_file(path: str, compression: str | None) -> IO[bytes]:
    """The (decompressed) bytes of a file. `compression` is a suffix in COMPRESSIONS, or None."""
    if compression is None:
        return Path(path).open("rb")
    return COMPRESSIONS[compression](path)


class _Zstandard(io.RawIOBase):
    """Reads all frames of a .zst file and knows a torn one: zstandard's own reader ends quietly in both cases."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._ready = stream, b""
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._between_frames = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._between_frames = zstandard.ZstdDecompressor().decompressobj(), True
            data = data or self._stream.read(2**17)
            if not data:
                if not self._between_frames:
                    raise EOFError("it ends inside a frame")
                return 0
            self._ready, self._between_frames = self._frame.decompress(data), False
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._stream.close()
        super().close()


COMPRESSIONS = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda path: io.BufferedReader(_Zstandard(io.FileIO(path)), 2**17),
}
